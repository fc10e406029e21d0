-- The delivery service reads its states; it has no views of its own yet.

-- +goose Up
SELECT 1;

-- +goose Down
SELECT 1;
