package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/google/uuid"

	"hotchoc/ops/partners"
)

// gateway is what the payment gateway says it did, by order. nil: it was not asked.
type gateway map[uuid.UUID]*charge

// charge is what the gateway did for one order.
type charge struct {
	captured, refunded  int64 // minor units
	captures, refunds   int
	captureID, refundID string
	currency            string
}

func (c *charge) kept() int64 { return c.captured - c.refunded }

// readLedger reads the gateway's ledger. It is ordered by time, so it is kept: some 200 bytes for each order.
func (a *audit) readLedger(ctx context.Context) (gateway, error) {
	if a.cfg.Partners == "" {
		a.skip("Q2", "not at the gateway: it was not named")
		return nil, nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(a.cfg.Partners, "/")+"/ledger", nil)
	if err != nil {
		return nil, errors.New("the partners' URL is malformed")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("gateway: GET /ledger: %s", resp.Status)
	}
	ledger := gateway{}
	lines := json.NewDecoder(resp.Body)
	for n := int64(1); ; n++ {
		var e partners.Entry
		if err := lines.Decode(&e); errors.Is(err, io.EOF) {
			a.looked(n-1, "Q2")
			return ledger, nil
		} else if err != nil {
			return nil, fmt.Errorf("gateway: entry %d of the ledger: %w", n, err)
		}
		if e.Kind != partners.KindCaptured && e.Kind != partners.KindRefunded {
			continue
		}
		order := id(e.Order)
		if order == uuid.Nil {
			a.report("Q2", "", uuid.Nil, "the gateway %s %d for %q, which is no order (%s)", e.Kind, e.Amount, e.Order, e.ID)
			continue
		}
		c := ledger[order]
		if c == nil {
			c = &charge{}
			ledger[order] = c
		}
		c.currency = e.Currency
		if e.Kind == partners.KindCaptured {
			c.captured, c.captures, c.captureID = c.captured+e.Amount, c.captures+1, e.ID
		} else {
			c.refunded, c.refunds, c.refundID = c.refunded+e.Amount, c.refunds+1, e.ID
		}
	}
}
