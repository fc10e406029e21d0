-- The menu service's views.

-- +goose Up
CREATE TABLE menu_page (
  key       text    PRIMARY KEY,                  -- the item's sku
  version   bigint  NOT NULL,
  doc       jsonb   NOT NULL,
  retired   boolean GENERATED ALWAYS AS ((doc ->> 'retired')::boolean) STORED
);

-- Which items need an ingredient, and whether it has run out.
CREATE TABLE ingredient (
  key     text   PRIMARY KEY,
  version bigint NOT NULL,
  doc     jsonb  NOT NULL
);

-- +goose Down
DROP TABLE ingredient, menu_page;
