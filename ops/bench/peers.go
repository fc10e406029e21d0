package bench

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"hotchoc/ops/bench/pipeline"
)

// Ratio compares two systems, or a system with a ceiling, under the same load: the quotient of what they did in the same
// round. The median counts; Min and Max say how far it can be trusted.
type Ratio struct {
	What   string  `json:"what"`
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// peer is a system that is a program of its own.
type peer struct {
	name     string
	program  string
	args     []string
	ends     map[string][]string
	messages float64
}

var peers = []peer{
	{"pipeline", "hotchoc", []string{"bench", "pipeline"}, map[string][]string{pipeline.Exchange: {pipeline.Ended}}, pipeline.Messages},
	{"watermill", Watermill, nil, map[string][]string{"order.completed": {"order.completed"}}, pipeline.Messages},
}

// peers measures in turns: the ceilings, the shop, and the peers, and again. Only one of them runs at a time.
func (b *bench) peers(ctx context.Context) error {
	for round := range b.sizes.rounds {
		b.say("  round %d of %d", round+1, b.sizes.rounds)
		if err := b.rig.closeShop(ctx); err != nil {
			return err
		}
		if err := b.ceilings(ctx); err != nil {
			return err
		}
		if err := b.rig.openShop(ctx); err != nil {
			return err
		}
		if err := b.withShop(func(s *system) error { return b.compare(ctx, s) }); err != nil {
			return err
		}
		if err := b.rig.closeShop(ctx); err != nil {
			return err
		}
		for _, p := range peers {
			s, stop, err := b.rig.start(ctx, p)
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			if err := errors.Join(b.compare(ctx, s), s.ends.close(), stop()); err != nil {
				return err
			}
		}
	}
	b.now.Ratios = ratios(b.now.Trials, b.now.Ceilings)
	b.now.Notes = append(b.now.Notes,
		"The shop does more for an order than the pipeline and Watermill do: eight events instead of five, calls to a payment gateway and a courier, decisions, compensation barriers, timers, two views.",
		"The pipeline has four stages written by hand for speed, group commits of up to 384 messages in one statement, confirms and acks that overlap the next commit; it has no retries, no dead letters and no sweeper.",
		"Watermill 1.5.1 with watermill-amqp 3.0.2, watermill-sql 4.0.0 and its forwarder as outbox, tuned: 64 subscriptions for each stage with a prefetch of 8, a pool of 32 channels with confirms, forwarders that poll every 10 ms, pgx with prepared statements, 100 connections.")
	return b.rig.openShop(ctx) // for the audit
}

// compare measures what systems are compared by.
func (b *bench) compare(ctx context.Context, s *system) error {
	for _, n := range b.sizes.compared {
		if _, err := b.closed(ctx, s, "", n); err != nil {
			return err
		}
	}
	return nil
}

// start starts a peer with a database of its own. stop ends it.
func (r *rig) start(ctx context.Context, p peer) (_ *system, stop func() error, err error) {
	database, err := r.database(ctx, p.name)
	if err != nil {
		return nil, nil, err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(r.bin, p.program), p.args...)
	cmd.Env = append(os.Environ(), "DATABASE_URL="+database, "AMQP_URL="+r.stack.AMQP())
	log, err := os.Create(filepath.Join(r.dir, "log", p.name+".log"))
	if err != nil {
		return nil, nil, err
	}
	defer log.Close()
	cmd.Stderr = log
	input, err := cmd.StdinPipe() // it ends with its input, and so also when this process dies
	if err != nil {
		return nil, nil, err
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	stop = func() error {
		_ = input.Close()
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		return nil
	}
	late := time.AfterFunc(readyWithin, func() { _ = cmd.Process.Kill() })
	line, err := bufio.NewReader(output).ReadString('\n')
	late.Stop()
	if err == nil {
		var ends *ends
		if ends, err = hearEnds(r.stack.AMQP(), p.ends); err == nil {
			parts := append(r.commonParts(), part{p.name, []int{cmd.Process.Pid}})
			return &system{name: p.name, url: strings.TrimSpace(line), ends: ends, parts: parts, messagesPerOrder: p.messages, wish: padded}, stop, nil
		}
	}
	says, _ := os.ReadFile(log.Name())
	return nil, nil, errors.Join(err, stop(), fmt.Errorf("it says: %s", says[max(0, len(says)-2000):]))
}

// padded is an order whose messages are about as large as the shop's.
func padded(n int64) string {
	return fmt.Sprintf(`{"note":%q,"order":%s}`, strings.Repeat("x", 250), goesWell(n))
}

// database makes a database, unless it is there, and returns its URL.
func (r *rig) database(ctx context.Context, name string) (string, error) {
	err := withDatabase(r.stack, "postgres", func(db *sql.DB) error {
		var there bool
		if err := db.QueryRowContext(ctx, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)`, name).Scan(&there); err != nil || there {
			return err
		}
		_, err := db.ExecContext(ctx, "CREATE DATABASE "+name+" TEMPLATE template0")
		return err
	})
	if err != nil {
		return "", err
	}
	u, err := url.Parse(r.stack.Database())
	if err != nil {
		return "", err
	}
	u.Path = "/" + name
	return u.String(), nil
}

// ratios compares what was done in the same rounds: the shop with each peer, by throughput and by latency, and the
// messages that the shop handled with the ceilings.
func ratios(runs []Trial, ceilings []Ceiling) (all []Ratio) {
	values := func(system string, inFlight int, value func(Trial) float64) (list []float64) {
		for _, r := range runs {
			if r.System == system && r.InFlight == inFlight {
				list = append(list, value(r))
			}
		}
		return list
	}
	throughput := func(r Trial) float64 { return r.Throughput }
	median := func(r Trial) float64 { return r.Latency.P50 }
	perMessage := func(r Trial) float64 { return r.CoreMSPerMessage }
	var loads []int
	for _, r := range runs {
		if r.System == shopName && !slices.Contains(loads, r.InFlight) {
			loads = append(loads, r.InFlight)
		}
	}
	for _, n := range loads {
		for _, p := range peers {
			if n == 1 {
				all = append(all, quotient(fmt.Sprintf("p50 of %s / of hotchoc, one at a time", p.name), values(p.name, n, median), values(shopName, n, median)))
				continue
			}
			of := func(what string) string {
				return fmt.Sprintf("%s of hotchoc / of %s, %s in flight", what, p.name, thousands(n))
			}
			all = append(all,
				quotient(of("orders/s"), values(shopName, n, throughput), values(p.name, n, throughput)),
				quotient(of("messages/s"), values(shopName, n, Trial.MessagesPerSecond), values(p.name, n, Trial.MessagesPerSecond)),
				quotient(of("core-ms/message"), values(shopName, n, perMessage), values(p.name, n, perMessage)))
		}
		if n == 1 {
			continue
		}
		for _, name := range ceilingNames(ceilings) {
			var list []float64
			for _, c := range ceilings {
				if c.Name == name {
					list = append(list, c.PerSecond)
				}
			}
			all = append(all, quotient(fmt.Sprintf("messages/s of hotchoc, %s in flight / %s", thousands(n), name), values(shopName, n, Trial.MessagesPerSecond), list))
		}
	}
	return all
}

// quotient divides round by round.
func quotient(what string, over, under []float64) Ratio {
	var all []float64
	for i := range min(len(over), len(under)) {
		if under[i] > 0 {
			all = append(all, over[i]/under[i])
		}
	}
	if len(all) == 0 {
		return Ratio{What: what}
	}
	slices.Sort(all)
	return Ratio{What: what, Median: middle(all), Min: all[0], Max: all[len(all)-1]}
}

// middle is the median of a sorted list.
func middle(sorted []float64) float64 {
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
