-- The order service's copies and views: documents folded from events. The columns beside key, version and doc are
-- computed from the document, for the queries of order/view.go.

-- +goose Up
CREATE TABLE order_status (
  key      text    PRIMARY KEY,                   -- the order
  version  bigint  NOT NULL,
  doc      jsonb   NOT NULL,
  status   text    GENERATED ALWAYS AS (doc ->> 'status') STORED,
  customer text    GENERATED ALWAYS AS (doc ->> 'customer') STORED,
  ended    boolean GENERATED ALWAYS AS ((doc ->> 'ended')::boolean) STORED
) WITH (fillfactor = 60);
CREATE INDEX order_status_customer ON order_status (customer, key);
CREATE INDEX order_status_open ON order_status (key) WHERE NOT ended;
CREATE INDEX order_status_status ON order_status (status, key);

CREATE TABLE order_history (
  key      text   PRIMARY KEY,                    -- the event
  version  bigint NOT NULL,
  doc      jsonb  NOT NULL,
  order_id text   GENERATED ALWAYS AS (doc ->> 'order') STORED
);
CREATE INDEX order_history_order ON order_history (order_id);

CREATE TABLE menu_copy (
  key     text   PRIMARY KEY,                     -- the item's sku
  version bigint NOT NULL,                        -- of the item's stream at menu
  doc     jsonb  NOT NULL
);

CREATE TABLE customer_copy (
  key     text   PRIMARY KEY,                     -- the customer
  version bigint NOT NULL,
  doc     jsonb  NOT NULL
);

-- +goose Down
DROP TABLE customer_copy, menu_copy, order_history, order_status;
