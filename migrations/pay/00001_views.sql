-- The pay service's views.

-- +goose Up
-- The refusals of each customer within the window of the pattern.
CREATE TABLE refusals (
  key     text   PRIMARY KEY,                     -- the customer
  version bigint NOT NULL,
  doc     jsonb  NOT NULL
) WITH (fillfactor = 80);

-- +goose Down
DROP TABLE refusals;
