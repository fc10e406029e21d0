-- The make service's copies.

-- +goose Up
CREATE TABLE recipe_copy (
  key     text   PRIMARY KEY,                     -- the item's sku
  version bigint NOT NULL,                        -- of the item's stream at menu
  doc     jsonb  NOT NULL
);

-- +goose Down
DROP TABLE recipe_copy;
