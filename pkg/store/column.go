package store

import (
	"database/sql/driver"
	"encoding/binary"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/lib/pq/oid"
)

// column is one array parameter, in the binary form of PostgreSQL (array_send in its arrayfuncs.c): no quoting here, no
// parsing there, and half the bytes of the text form. The pool must have binary_parameters=yes.
type column []byte

// Where the numbers are in the head of a column: dimensions, nulls, type, items, lower bound. Each has four bytes.
const (
	columnNulls = 4
	columnItems = 12
	columnHead  = 20
)

// columnOf makes a column of a type, with room for about so many bytes an item.
func columnOf[T any](typ oid.Oid, bytes int, items []T, add func(*column, T)) *column {
	c := make(column, columnHead, columnHead+len(items)*(4+bytes))
	binary.BigEndian.PutUint32(c, 1)
	binary.BigEndian.PutUint32(c[8:], uint32(typ))
	binary.BigEndian.PutUint32(c[16:], 1)
	for _, item := range items {
		add(&c, item)
	}
	return &c
}

// item begins an item of n bytes; -1 is NULL.
func (c *column) item(n int) {
	items := (*c)[columnItems:]
	binary.BigEndian.PutUint32(items, binary.BigEndian.Uint32(items)+1)
	*c = binary.BigEndian.AppendUint32(*c, uint32(int32(n)))
}

func (c *column) null() {
	(*c)[columnNulls+3] = 1
	c.item(-1)
}

func (c *column) text(s string) {
	c.item(len(s))
	*c = append(*c, s...)
}

// bytes adds a bytea; nil is NULL.
func (c *column) bytes(b []byte) {
	if b == nil {
		c.null()
		return
	}
	c.item(len(b))
	*c = append(*c, b...)
}

// json adds a jsonb, which has its version before its text.
func (c *column) json(text []byte) {
	c.item(1 + len(text))
	*c = append(append(*c, 1), text...)
}

func (c *column) uuid(id uuid.UUID) {
	c.item(len(id))
	*c = append(*c, id[:]...)
}

func (c *column) int4(n int) {
	c.item(4)
	*c = binary.BigEndian.AppendUint32(*c, uint32(int32(n)))
}

func (c *column) int8(n int64) {
	c.item(8)
	*c = binary.BigEndian.AppendUint64(*c, uint64(n))
}

// epoch is where PostgreSQL begins to count the microseconds of a timestamptz.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()

func (c *column) time(t time.Time) { c.int8(t.UnixMicro() - epoch) }

// BinaryValue is asked by the driver when it sends binary parameters.
func (c *column) BinaryValue() ([]byte, error) { return *c, nil }

// Value is asked when it does not.
func (c *column) Value() (driver.Value, error) {
	return nil, errors.New("the store sends its parameters in binary form: open the pool with binary_parameters=yes")
}

// The columns of each type, of one thing that each of the items has.

func texts[T any](items []T, of func(T) string) *column {
	return columnOf(oid.T_text, 24, items, func(c *column, item T) { c.text(of(item)) })
}

func uuids[T any](items []T, of func(T) uuid.UUID) *column {
	return columnOf(oid.T_uuid, 16, items, func(c *column, item T) { c.uuid(of(item)) })
}

// orNull has NULL for a zero UUID.
func orNull[T any](items []T, of func(T) uuid.UUID) *column {
	return columnOf(oid.T_uuid, 16, items, func(c *column, item T) {
		if id := of(item); id == uuid.Nil {
			c.null()
		} else {
			c.uuid(id)
		}
	})
}

func int4s[T any](items []T, of func(T) int) *column {
	return columnOf(oid.T_int4, 4, items, func(c *column, item T) { c.int4(of(item)) })
}

func int8s[T any](items []T, of func(T) int64) *column {
	return columnOf(oid.T_int8, 8, items, func(c *column, item T) { c.int8(of(item)) })
}

func times[T any](items []T, of func(T) time.Time) *column {
	return columnOf(oid.T_timestamptz, 8, items, func(c *column, item T) { c.time(of(item)) })
}

func byteas[T any](items []T, of func(T) []byte) *column {
	return columnOf(oid.T_bytea, 32, items, func(c *column, item T) { c.bytes(of(item)) })
}

func jsons[T any](items []T, of func(T) []byte) *column {
	bytes := 0
	for _, item := range items {
		bytes += len(of(item))
	}
	return columnOf(oid.T_jsonb, 1+bytes/max(len(items), 1)+1, items, func(c *column, item T) { c.json(of(item)) })
}
