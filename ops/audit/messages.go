package audit

import (
	"bytes"
	"context"
	"database/sql"
	"slices"

	"github.com/google/uuid"
)

// messages walks the five logs and, at rest, the five inboxes by message ID, side by side: of S1 that IDs are unique over
// all services; Q4; and of S5 that nothing was handled that is in no log.
func (a *audit) messages(ctx context.Context) error {
	var logs []*cursor[message]
	var inboxes []*cursor[claim]
	defer func() {
		for _, c := range logs {
			c.close()
		}
		for _, c := range inboxes {
			c.close()
		}
	}()
	for _, d := range a.databases {
		log, err := walk(ctx, d, func(rows *sql.Rows, m *message) error {
			m.service = d.service
			return rows.Scan(&m.id, &m.typ, &m.saga)
		}, `SELECT event_id, type, saga FROM event_log ORDER BY event_id`)
		if err != nil {
			return err
		}
		logs = append(logs, log)
		if !a.atRest {
			continue
		}
		inbox, err := walk(ctx, d, func(rows *sql.Rows, c *claim) error {
			c.service = d.service
			return rows.Scan(&c.id, &c.step, &c.saga)
		}, `SELECT message_id, step, saga FROM inbox ORDER BY message_id`)
		if err != nil {
			return err
		}
		inboxes = append(inboxes, inbox)
	}
	for {
		var next uuid.UUID
		found := false
		consider := func(ok bool, id uuid.UUID) {
			if ok && (!found || bytes.Compare(id[:], next[:]) < 0) {
				next, found = id, true
			}
		}
		for _, c := range logs {
			consider(c.ok, c.head.id)
		}
		for _, c := range inboxes {
			consider(c.ok, c.head.id)
		}
		if !found {
			break
		}
		var event *message
		for _, c := range logs {
			for c.ok && c.head.id == next {
				m := c.head
				if event == nil {
					event = &m
				} else {
					a.report("S1", m.service, m.saga, "the ID %s of %s is that of %s, too", next, m.typ, event.typ)
				}
				if err := c.next(); err != nil {
					return err
				}
			}
		}
		var claims []claim
		for _, c := range inboxes {
			for c.ok && c.head.id == next {
				claims = append(claims, c.head)
				if err := c.next(); err != nil {
					return err
				}
			}
		}
		if a.atRest {
			a.heard(next, event, claims)
		}
	}
	for _, c := range logs {
		if a.atRest {
			a.looked(c.n, "Q4")
		}
	}
	for _, c := range inboxes {
		a.looked(c.n, "S5")
	}
	return nil
}

// message is an event without its data.
type message struct {
	id, saga     uuid.UUID
	service, typ string
}

// claim is a row of an inbox.
type claim struct {
	claimant
	id, saga uuid.UUID
}

// heard compares the claims of a message with those that must be there.
func (a *audit) heard(id uuid.UUID, event *message, claims []claim) {
	if event == nil {
		for _, c := range claims {
			if !a.rules.outside[c.claimant] {
				a.report("S5", c.service, c.saga, "%s handled the message %s, which is in no log", c.step, id)
			}
		}
		return
	}
	hearers := a.rules.hearers[event.typ]
	for _, h := range hearers {
		if !slices.ContainsFunc(claims, func(c claim) bool { return c.claimant == h }) {
			a.report("Q4", h.service, event.saga, "%s has not heard %s %s", h.step, event.typ, id)
		}
	}
}
