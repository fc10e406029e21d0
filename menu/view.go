package menu

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"

	"github.com/jmoiron/sqlx"
	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract/menuv1"
)

// Entry is an item as people see it.
type Entry struct {
	SKU       string   `json:"sku"`
	Name      string   `json:"name"`
	Price     Money    `json:"price"`
	Recipe    []Amount `json:"recipe"`
	Available bool     `json:"available"`
	// Offered is the staff's switch; Depleted says which ingredients keep an offered item from being available.
	Offered  bool     `json:"offered"`
	Depleted []string `json:"depleted"`
	Retired  bool     `json:"retired"`
	Version  int64    `json:"version"`
}

// Money is an amount in minor units of a currency (ISO 4217).
type Money struct {
	Amount   int64  `json:"amount"`
	Currency string `json:"currency"`
}

func (p *Entry) fold(fact proto.Message, e envelope) {
	switch f := fact.(type) {
	case state:
		var i Item
		i.evolve(fact)
		*p = Entry{
			SKU: i.SKU, Name: i.Name, Price: Money{i.Price, i.Currency}, Recipe: i.Recipe,
			Available: i.available(), Offered: i.Offered, Depleted: append([]string{}, i.Depleted...),
		}
	case *menuv1.ItemRetired:
		p.SKU, p.Retired, p.Available = f.Sku, true, false
	}
	p.Version = e.Version
}

func bySKU(fact proto.Message, _ envelope) []string {
	return []string{fact.(interface{ GetSku() string }).GetSku()}
}

// queries read the views.
type queries struct{ db *sqlx.DB }

// menu lists what is on the menu, by sku, after the one given.
func (q queries) menu(ctx context.Context, after string, limit int) ([]Entry, error) {
	var docs [][]byte
	if err := q.db.SelectContext(ctx, &docs, `SELECT doc FROM menu_page WHERE key > $1 AND NOT retired ORDER BY key LIMIT $2`, after, limit); err != nil {
		return nil, err
	}
	entries := make([]Entry, len(docs))
	for i, doc := range docs {
		if err := json.Unmarshal(doc, &entries[i]); err != nil {
			return nil, err
		}
	}
	return entries, nil
}

// item returns one item, retired or not; false if there never was one.
func (q queries) item(ctx context.Context, sku string) (Entry, bool, error) {
	var doc []byte
	err := q.db.GetContext(ctx, &doc, `SELECT doc FROM menu_page WHERE key = $1`, sku)
	if errors.Is(err, sql.ErrNoRows) {
		return Entry{}, false, nil
	}
	if err != nil {
		return Entry{}, false, err
	}
	var e Entry
	return e, true, json.Unmarshal(doc, &e)
}
