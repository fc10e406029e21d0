package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
	amqp "github.com/rabbitmq/amqp091-go"
	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract"
	"hotchoc/pkg/contract/orderv1"
	"hotchoc/pkg/contract/payv1"
	"hotchoc/pkg/event"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/internal/servers"
	"hotchoc/pkg/rabbit"
	"hotchoc/pkg/store"
	"hotchoc/pkg/web"
)

type counter struct{ N int }

// order takes orders and hears that they are paid.
func orderFlow() *flow.Flow {
	orders := flow.NewStream("order", func(c *counter, _ proto.Message) { c.N++ })
	return flow.New("order", orders,
		flow.Command("place", orders, func(c *counter, placed *orderv1.OrderPlaced) flow.Outcome {
			return flow.Emit(placed)
		}).Emits(&orderv1.OrderPlaced{}),
		flow.On("finish", orders, func(_ *counter, paid *payv1.PaymentCaptured) flow.Outcome {
			return flow.Emit(&orderv1.OrderCompleted{OrderId: paid.OrderId})
		}).Emits(&orderv1.OrderCompleted{}),
	)
}

// pay asks a gateway and says that the order is paid.
func payFlow(ask func(context.Context) error) *flow.Flow {
	payments := flow.NewStream("payment", func(c *counter, _ proto.Message) { c.N++ })
	capture := func(ctx context.Context, _ flow.Call, _ *orderv1.OrderPlaced) (bool, error) { return true, ask(ctx) }
	return flow.New("pay", payments, flow.Ask("charge", payments, capture, func(_ *counter, placed *orderv1.OrderPlaced, _ bool) flow.Outcome {
		return flow.Emit(&payv1.PaymentCaptured{OrderId: placed.OrderId, Customer: placed.Customer})
	}).Emits(&payv1.PaymentCaptured{}))
}

func atOnce(context.Context) error { return nil }

// instance is a running service.
type instance struct {
	t    *testing.T
	url  string
	stop func() // may be called again
}

// start runs a service; it is stopped at the end of the test.
func start(t *testing.T, cfg Config, s Service) *instance {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.HTTPAddr, cfg.LogLevel, cfg.LogFormat = l.Addr().String(), "error", "json"
	cfg.BatchMax, cfg.AsksMax, cfg.Prefetch, cfg.PoolMax, cfg.SweepInterval = 384, 64, 1536, 4, 100*time.Millisecond
	if cfg.StopTimeout == 0 {
		cfg.StopTimeout = 5 * time.Second
	}
	if s.Routes == nil {
		s.Routes = func(*web.Server, Runtime) {}
	}
	_ = l.Close()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := Run(ctx, cfg, s); err != nil {
			t.Error(err)
		}
	}()
	in := &instance{t: t, url: "http://" + cfg.HTTPAddr}
	in.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(servers.Patience):
			t.Error("the service does not stop")
		}
	})
	t.Cleanup(in.stop)
	servers.Eventually(t, func() error {
		status, _, err := in.get("/livez")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("alive: %d", status)
		}
		return err
	})
	return in
}

func (in *instance) get(path string) (int, string, error) {
	resp, err := http.Get(in.url + path)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// readiness is what /readyz says.
func (in *instance) readiness() (status int, checks map[string]string) {
	in.t.Helper()
	status, body, err := in.get("/readyz")
	var report struct{ Checks map[string]string }
	if err := errors.Join(err, json.Unmarshal([]byte(body), &report)); err != nil {
		in.t.Fatal(err)
	}
	return status, report.Checks
}

// missing waits until the service is not ready, for what is not "ok" in want, and for that alone.
func (in *instance) missing(want map[string]string) {
	in.t.Helper()
	servers.Eventually(in.t, func() error {
		status, checks := in.readiness()
		for name, says := range want {
			if says == "ok" != (checks[name] == "ok") || !strings.Contains(checks[name], says) {
				return fmt.Errorf("%d %v, want %v", status, checks, want)
			}
		}
		if status != http.StatusServiceUnavailable {
			return fmt.Errorf("%d %v", status, checks)
		}
		return nil
	})
	if status, _, err := in.get("/livez"); status != http.StatusOK || err != nil {
		in.t.Errorf("it is not alive: %d, %v", status, err)
	}
}

func (in *instance) ready() {
	in.t.Helper()
	servers.Eventually(in.t, func() error {
		if status, checks := in.readiness(); status != http.StatusOK {
			return fmt.Errorf("%d %v", status, checks)
		}
		return nil
	})
}

// placed is an order.placed on the wire.
func placed(t *testing.T) amqp.Publishing {
	t.Helper()
	saga := event.NewID().String()
	fact := &orderv1.OrderPlaced{OrderId: saga, Customer: "ada"}
	body, err := contract.Marshal(fact)
	if err != nil {
		t.Fatal(err)
	}
	return amqp.Publishing{
		MessageId: event.NewID().String(), Type: "order.placed", CorrelationId: saga, AppId: "order", UserId: "order", Body: body,
		Headers: amqp.Table{
			"cloudEvents_causationid": event.NewID().String(), "cloudEvents_time": time.Now().UTC().Format(time.RFC3339Nano),
			"cloudEvents_subject": "order/" + saga, "cloudEvents_sequence": "1", "schema": int64(1), "hops": int64(1), "actor": "customer:ada",
		},
	}
}

func publish(t *testing.T, b *servers.Broker, messages ...amqp.Publishing) {
	t.Helper()
	channel := servers.Dial(t, b.As("order"))
	for _, m := range messages {
		if err := channel.Publish("order.events", "order.placed", true, false, m); err != nil {
			t.Fatal(err)
		}
	}
}

// TestAServiceStartedAloneBecomesReadyWhenItsServersAppear lets them appear one by one, without a restart.
func TestAServiceStartedAloneBecomesReadyWhenItsServersAppear(t *testing.T) {
	t.Parallel()
	db, b := servers.ReserveDatabase(t), servers.ReserveBroker(t)
	toDB, toAMQP := servers.NewProxy(t, db.URL), servers.NewProxy(t, b.URL)
	toDB.Down()
	toAMQP.Down()
	begun := make(chan struct{})
	pay := start(t, Config{DatabaseURL: toDB.URL(db.URL), AMQPURL: toAMQP.URL(b.As("pay"))}, Service{
		Flow:  payFlow(atOnce),
		Start: func(context.Context, Runtime) error { close(begun); return nil },
	})
	pay.missing(map[string]string{"database": "not reachable", "publishing": "no broker", "consuming": "no broker"})

	toDB.Up()
	pay.missing(map[string]string{"database": "does not exist", "publishing": "no broker", "consuming": "no broker"})
	db.Create(t)
	pay.missing(map[string]string{"database": "does not exist", "publishing": "no broker", "consuming": "no broker"})
	db.Migrate(t)
	pay.missing(map[string]string{"database": "ok", "publishing": "no broker", "consuming": "no broker"})
	toAMQP.Up()
	pay.missing(map[string]string{"database": "ok", "publishing": "no broker", "consuming": "no broker"})
	select {
	case <-begun:
	default:
		// It begins with the first look of the consumer at the database, which comes after the broker.
	}
	b.Apply(t, payFlow(atOnce), orderFlow())
	pay.ready()
	<-begun

	m := placed(t)
	publish(t, b, m, m)
	if d := b.Take(t, "order", 1)[0]; d.Type != "payment.captured" || d.CorrelationId != m.CorrelationId || d.Headers["cloudEvents_causationid"] != m.MessageId {
		t.Errorf("got %+v", d)
	}

	// And both go and come back.
	toAMQP.Down()
	pay.missing(map[string]string{"database": "ok", "publishing": "no broker", "consuming": "no broker"})
	toDB.Down()
	pay.missing(map[string]string{"database": "not reachable", "publishing": "no broker", "consuming": "no broker"})
	next := placed(t)
	publish(t, b, next)
	toAMQP.Up()
	pay.missing(map[string]string{"database": "not reachable", "publishing": "ok", "consuming": "what is behind this service is away"})
	toDB.Up()
	pay.ready()
	if d := b.Take(t, "order", 1)[0]; d.CorrelationId != next.CorrelationId {
		t.Errorf("got %+v", d)
	}
	if n := db.Int(t, `SELECT count(*) FROM event_log`); n != 2 {
		t.Errorf("%d events are in the log, want 2", n)
	}
}

// TestAServiceIsNotReadyOnABrokenTopologyAndSaysWhy takes the dead letters away before the service starts.
func TestAServiceIsNotReadyOnABrokenTopologyAndSaysWhy(t *testing.T) {
	t.Parallel()
	db, b := servers.NewDatabase(t), servers.NewBroker(t, payFlow(atOnce), orderFlow())
	b.Call(t, http.MethodDelete, "queues/"+b.VHost+"/pay.dead", nil, nil)
	pay := start(t, Config{DatabaseURL: db.URL, AMQPURL: b.As("pay")}, Service{Flow: payFlow(atOnce)})
	pay.missing(map[string]string{"database": "ok", "publishing": "ok", "consuming": "the topology is not what pay needs: queue pay.dead is missing; " +
		"hotchoc topology diff tells all that differs, hotchoc topology apply declares what is missing"})
	if err := rabbit.Apply(t.Context(), b.ManagementURL, b.Definitions(t, payFlow(atOnce), orderFlow())); err != nil {
		t.Fatal(err)
	}
	pay.ready()
}

// TestTwoServicesThatAnswerEachOtherAreStopped gives the verification something to find, does not listen to it, and lets
// the hop limit end it: the last message is a dead letter that tells why.
func TestTwoServicesThatAnswerEachOtherAreStopped(t *testing.T) {
	t.Parallel()
	orders := flow.NewStream("order", func(c *counter, _ proto.Message) { c.N++ })
	again := flow.New("order", orders, flow.On("again", orders, func(_ *counter, paid *payv1.PaymentCaptured) flow.Outcome {
		return flow.Emit(&orderv1.OrderPlaced{OrderId: paid.OrderId, Customer: paid.Customer})
	}).Emits(&orderv1.OrderPlaced{}).NotCompensated("it never ends"))
	charge := payFlow(atOnce)

	if !slices.ContainsFunc(flow.NewGraph(again, charge).Verify(), func(p flow.Problem) bool {
		return p.Rule == "no-circle" && strings.Join(p.Path, " ") == "order/again order.placed pay/charge payment.captured order/again"
	}) {
		t.Error("the verification does not see the circle")
	}

	ordersDB, paymentsDB, b := servers.NewDatabase(t), servers.NewDatabase(t), servers.NewBroker(t, again, charge)
	start(t, Config{DatabaseURL: ordersDB.URL, AMQPURL: b.As("order")}, Service{Flow: again}).ready()
	start(t, Config{DatabaseURL: paymentsDB.URL, AMQPURL: b.As("pay")}, Service{Flow: charge}).ready()
	first := placed(t)
	publish(t, b, first)

	// The 33rd message is one of order: it wrote the first, and every other one since.
	dead := b.Take(t, "pay.dead", 1)[0]
	const why = "order.placed is 33 hops away from the beginning of its saga, more than 32: the events go round in a loop"
	if reason, _ := dead.Headers["dead_reason"].(string); !strings.Contains(reason, why) || dead.CorrelationId != first.CorrelationId || dead.Headers["hops"] != int64(event.MaxHops+1) {
		t.Errorf("the dead letter is %+v", dead)
	}
	if n := ordersDB.Int(t, `SELECT count(*) FROM event_log`) + paymentsDB.Int(t, `SELECT count(*) FROM event_log`); n != event.MaxHops {
		t.Errorf("%d events were written, want %d", n, event.MaxHops)
	}
	if n := paymentsDB.Int(t, `SELECT count(*) FROM attempt WHERE saga = $1 AND next_at IS NULL AND error LIKE '%' || $2 || '%'`, first.CorrelationId, why); n != 1 {
		t.Errorf("the ledger of attempts tells of it %d times", n)
	}
}

// TestTwoServicesTalk goes once there and back: HTTP, commit, broker, commit, broker, commit.
func TestTwoServicesTalk(t *testing.T) {
	t.Parallel()
	b := servers.NewBroker(t, payFlow(atOnce), orderFlow())
	ordersDB, paymentsDB := servers.NewDatabase(t), servers.NewDatabase(t)
	start(t, Config{DatabaseURL: paymentsDB.URL, AMQPURL: b.As("pay")}, Service{Flow: payFlow(atOnce)})
	place := func(s *web.Server, rt Runtime) {
		s.POST("/orders", func(c echo.Context) error {
			id, err := web.MessageID(c, "place")
			if err != nil {
				return err
			}
			saga := event.NewID()
			v := rt.Intake.Do(c.Request().Context(), flow.NewCommand("place", id, saga, "customer:ada", &orderv1.OrderPlaced{OrderId: saga.String(), Customer: "ada"}))
			if err := web.Failed(v); err != nil {
				return err
			}
			if v.Duplicate {
				saga = v.First.Saga
			}
			return c.String(http.StatusCreated, saga.String())
		})
		s.GET("/orders/:id", func(c echo.Context) error {
			state, version, err := State[counter](c.Request().Context(), rt, "order/"+c.Param("id"))
			if err != nil {
				return err
			}
			return c.String(http.StatusOK, fmt.Sprintf("%d facts, version %d", state.N, version))
		})
	}
	order := start(t, Config{DatabaseURL: ordersDB.URL, AMQPURL: b.As("order")}, Service{Flow: orderFlow(), Routes: place})
	order.ready()
	post := func() string {
		req, _ := http.NewRequest(http.MethodPost, order.url+"/orders", nil)
		req.Header.Set("Idempotency-Key", "the same")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != http.StatusCreated {
			t.Fatalf("%d %s", resp.StatusCode, body)
		}
		return string(body)
	}
	id := post()
	if again := post(); again != id {
		t.Errorf("the same request made the orders %s and %s", id, again)
	}
	servers.Eventually(t, func() error {
		_, body, err := order.get("/orders/" + id)
		if err != nil || body != "2 facts, version 2" {
			return fmt.Errorf("%s, %v", body, err)
		}
		return nil
	})
	if _, body, _ := order.get("/orders/none"); body != "0 facts, version 0" {
		t.Errorf("an order that is not: %s", body)
	}
	_, metrics, _ := order.get("/metrics")
	for _, want := range []string{`hotchoc_messages_total{outcome="duplicate",type="place"} 1`, `hotchoc_messages_total{outcome="handled",type="payment.captured"} 1`, `hotchoc_deliveries_total{fate="ack"} 1`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("there is no %s in the metrics", want)
		}
	}
}

func TestWhileTheOutsideCannotBeReachedNothingIsConsumed(t *testing.T) {
	t.Parallel()
	var away, asked atomic.Bool
	away.Store(true)
	db, b := servers.NewDatabase(t), servers.NewBroker(t, payFlow(atOnce), orderFlow())
	pay := start(t, Config{DatabaseURL: db.URL, AMQPURL: b.As("pay")}, Service{
		Flow: payFlow(func(context.Context) error { asked.Store(true); return nil }),
		Outside: func(context.Context) error {
			if away.Load() {
				return errors.New("the gateway is away")
			}
			return nil
		},
	})
	m := placed(t)
	publish(t, b, m)
	pay.missing(map[string]string{"database": "ok", "publishing": "ok", "consuming": "the gateway is away"})
	servers.Eventually(t, func() error {
		if b.Ready(t, "pay") != 1 {
			return errors.New("the message is not in the queue")
		}
		return nil
	})
	if asked.Load() {
		t.Error("it consumes")
	}
	away.Store(false)
	pay.ready()
	if d := b.Take(t, "order", 1)[0]; d.CorrelationId != m.CorrelationId {
		t.Errorf("got %+v", d)
	}
}

func TestAStopKeepsToItsDeadlineWhateverIsUnderWay(t *testing.T) {
	t.Parallel()
	db, b := servers.NewDatabase(t), servers.NewBroker(t, payFlow(atOnce), orderFlow())
	asked := make(chan struct{}, 100)
	slow := func(ctx context.Context) error {
		asked <- struct{}{}
		<-ctx.Done() // 5 s: the outside is not cut off, for its outcome would be unknown
		return ctx.Err()
	}
	waiting := make(chan struct{}, 1)
	pay := start(t, Config{DatabaseURL: db.URL, AMQPURL: b.As("pay"), StopTimeout: time.Second}, Service{Flow: payFlow(slow), Routes: func(s *web.Server, _ Runtime) {
		s.GET("/wait", func(c echo.Context) error {
			waiting <- struct{}{}
			<-c.Request().Context().Done()
			return c.NoContent(http.StatusNoContent)
		})
	}})
	pay.ready()
	m := placed(t)
	publish(t, b, m)
	<-asked
	answered := make(chan int, 1)
	go func() {
		status, _, _ := pay.get("/wait")
		answered <- status
	}()
	<-waiting
	began := time.Now()
	pay.stop()
	servers.Took(t, "stopping", began, 8*time.Second)
	if status := <-answered; status != http.StatusNoContent {
		t.Errorf("the request that waited was answered %d", status)
	}
	// It was not acked: the next instance gets it.
	next := start(t, Config{DatabaseURL: db.URL, AMQPURL: b.As("pay")}, Service{Flow: payFlow(atOnce)})
	next.ready()
	if d := b.Take(t, "order", 1)[0]; d.CorrelationId != m.CorrelationId {
		t.Errorf("got %+v", d)
	}
}

func TestAStopWithoutServersIsQuick(t *testing.T) {
	t.Parallel()
	pay := start(t, Config{DatabaseURL: "postgres://pay:geheim@127.0.0.1:1/pay", AMQPURL: "amqp://pay:geheim@127.0.0.1:1/,amqp://pay:geheim@127.0.0.1:2/"}, Service{Flow: payFlow(atOnce)})
	pay.missing(map[string]string{"database": "refused", "publishing": "no broker", "consuming": "no broker"})
	if _, body, _ := pay.get("/readyz"); strings.Contains(body, "geheim") {
		t.Errorf("it tells the password: %s", body)
	}
	began := time.Now()
	pay.stop()
	servers.Took(t, "stopping", began, 3*time.Second)
}

func TestAnAddressInUseEndsTheServiceAtOnce(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cfg, err := load(good("HTTP_ADDR=" + l.Addr().String())...)
	if err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), cfg, Service{Flow: payFlow(atOnce)}); err == nil || !strings.Contains(err.Error(), "HTTP_ADDR") || !strings.Contains(err.Error(), "in use") {
		t.Errorf("got %v", err)
	}
}

func TestTheFirstPartThatEndsStopsTheOthersLastOneFirst(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var order []string
	part := func(name string) func(context.Context) error {
		return func(ctx context.Context) error {
			<-ctx.Done()
			mu.Lock()
			defer mu.Unlock()
			order = append(order, name)
			return errors.New(name)
		}
	}
	broken := errors.New("broken")
	err := inOrder(t.Context(), part("a"), func(context.Context) error { return broken }, part("b"), part("c"))
	if got := strings.Join(order, " "); got != "c b a" || !errors.Is(err, broken) || !strings.Contains(err.Error(), "a") {
		t.Errorf("stopped %s: %v", got, err)
	}
}

// TestADatabaseThatHangsIsGivenUp freezes it: no connection is cut, and nothing is answered.
func TestADatabaseThatHangsIsGivenUp(t *testing.T) {
	t.Parallel()
	db := servers.NewDatabase(t)
	for name, try := range map[string]func(*store.Postgres, store.Tx) error{
		"ping":  func(s *store.Postgres, _ store.Tx) error { return s.Ping(context.Background()) },
		"begin": func(s *store.Postgres, _ store.Tx) error { _, err := s.Begin(context.Background()); return err },
		"read": func(_ *store.Postgres, tx store.Tx) error {
			_, err := tx.Read(context.Background(), store.Request{Claims: []store.ClaimKey{{Step: "charge", Message: event.NewID()}}})
			return err
		},
		"write": func(_ *store.Postgres, tx store.Tx) error {
			return tx.Write(context.Background(), store.Changes{Claims: []store.Claim{{Step: "charge", Message: event.NewID()}}})
		},
		"commit": func(_ *store.Postgres, tx store.Tx) error { return tx.Commit() },
		"sweep": func(s *store.Postgres, _ store.Tx) error {
			_, err := s.Sweep(context.Background(), 10, time.Hour)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			proxy := servers.NewProxy(t, db.URL)
			pool, err := open(proxy.URL(db.URL), "hang", 2, "", 500*time.Millisecond)
			if err != nil {
				t.Fatal(err)
			}
			defer pool.Close()
			s := store.NewPostgres(pool, pool, store.PostgresConfig{Service: "pay", Timeout: 300 * time.Millisecond})
			tx, err := s.Begin(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback()
			// A connection that nobody uses is not given up.
			idle, err := pool.Conn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			_ = idle.Close()
			proxy.Freeze()
			began := time.Now()
			if err := try(s, tx); !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("got %v", err)
			}
			servers.Took(t, name, began, 10*time.Second) // the driver's own try to cancel takes five
			proxy.Thaw()
			tx.Rollback()
			servers.Eventually(t, func() error { return s.Ping(context.Background()) })
		})
	}
}
