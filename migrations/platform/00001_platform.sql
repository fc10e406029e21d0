-- What the platform keeps in every service's database. The package hotchoc/pkg/store is the only one that writes here.

-- +goose Up

-- The event log: the service's own truth, append-only. What is published is what is here.
CREATE TABLE event_log (
  position    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  event_id    uuid        NOT NULL UNIQUE,
  stream      text        NOT NULL,               -- category/key, such as order/0198…
  version     bigint      NOT NULL CHECK (version > 0),
  type        text        NOT NULL,               -- wire name, such as order.placed
  schema      int         NOT NULL CHECK (schema > 0),
  data        jsonb       NOT NULL,
  saga        uuid        NOT NULL,               -- the correlation ID
  causation   uuid        NOT NULL,               -- the message that directly caused it
  hops        int         NOT NULL,
  actor       text        NOT NULL,
  recorded_at timestamptz NOT NULL,
  UNIQUE (stream, version)                        -- the guard of the streams: one writer at a time
);
CREATE INDEX event_log_saga ON event_log (saga);

-- +goose StatementBegin
CREATE FUNCTION event_log_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'the event log is append-only: % is not allowed; correct a fact by a new one', TG_OP;
END $$;
-- +goose StatementEnd
CREATE TRIGGER event_log_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON event_log
  FOR EACH STATEMENT EXECUTE FUNCTION event_log_is_append_only();

-- The state of each stream: the fold of its events, written in the same commit. Can be rebuilt from the log.
CREATE TABLE stream_state (
  key     text   PRIMARY KEY,                     -- the stream
  version bigint NOT NULL,
  doc     jsonb  NOT NULL
) WITH (fillfactor = 70);

-- The inbox: which step has handled which message. A repeated HTTP request is answered from saga and digest.
CREATE TABLE inbox (
  step       text        NOT NULL,
  message_id uuid        NOT NULL,
  saga       uuid        NOT NULL,
  digest     bytea,
  handled_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (message_id, step)
);

-- The barrier: how far a step that can be undone has come in a saga.
CREATE TABLE barrier (
  saga      uuid NOT NULL,
  step      text NOT NULL,
  state     text NOT NULL CHECK (state IN ('done', 'undone', 'suppressed', 'given up')),
  fact      uuid,                                 -- the event that is undone
  undone_by uuid,                                 -- the event that undid it
  raised_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (saga, step)
) WITH (fillfactor = 90);

-- The outbox: what is still to be published. Events have their data in the log; timers carry it here. due_at is also the
-- lease of the relay that has taken the row.
CREATE TABLE outbox (
  message_id uuid        PRIMARY KEY,
  due_at     timestamptz NOT NULL,
  timer      jsonb
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX outbox_due ON outbox (due_at);

-- The attempt ledger: every try that failed, for people.
CREATE TABLE attempt (
  message_id uuid        NOT NULL,
  step       text        NOT NULL,
  n          int         NOT NULL,
  type       text        NOT NULL,
  saga       uuid        NOT NULL,
  error      text        NOT NULL,
  at         timestamptz NOT NULL,
  next_at    timestamptz,                         -- null: it was set aside
  PRIMARY KEY (message_id, step, at)              -- n begins anew after a redrive
);
CREATE INDEX attempt_saga ON attempt (saga);

-- +goose Down
DROP TABLE attempt, outbox, barrier, inbox, stream_state, event_log;
DROP FUNCTION event_log_is_append_only();
