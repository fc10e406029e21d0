// Package web is the thin layer between echo and the services: strict JSON in, problems out, health and metrics.
package web

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"

	"hotchoc/pkg/event"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/store"
)

// Limits of requests and connections.
const (
	BodyMax           = 64 << 10
	HeaderMax         = 16 << 10
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 10 * time.Second
	// WaitMax is the longest hold of a Prefer: wait.
	WaitMax      = 60 * time.Second
	writeTimeout = WaitMax + 15*time.Second
	idleTimeout  = 60 * time.Second
	stopTimeout  = 5 * time.Second
)

// Check tells what is wrong, or nil. It must answer at once.
type Check func(context.Context) error

// Server is a service's HTTP edge. Routes are added to Echo before Run.
type Server struct {
	*echo.Echo
	log      *zap.Logger
	checks   map[string]Check
	registry *prometheus.Registry
}

// New returns a server with the routes that every service has: /livez, /readyz, /metrics and /flow.
func New(f *flow.Flow, checks map[string]Check, registry *prometheus.Registry, log *zap.Logger) *Server {
	s := &Server{Echo: echo.New(), log: log, checks: checks, registry: registry}
	s.HideBanner, s.HidePort = true, true
	s.IPExtractor = echo.ExtractIPDirect()
	s.HTTPErrorHandler = s.problem
	s.Use(s.recoverPanics)
	s.GET("/livez", func(c echo.Context) error { return c.JSON(http.StatusOK, map[string]string{"status": "alive"}) })
	s.GET("/readyz", s.ready)
	s.GET("/metrics", echo.WrapHandler(promhttp.HandlerFor(registry, promhttp.HandlerOpts{})))
	s.GET("/flow", func(c echo.Context) error { return c.JSONPretty(http.StatusOK, flow.NewGraph(f), "  ") })
	return s
}

// Listen takes the address, so that one that is in use is found before anything else starts.
func Listen(addr string) (net.Listener, error) { return net.Listen("tcp", addr) }

// Serve serves until ctx is done, then lets the requests that are under way come to their end. Their contexts are
// cancelled, so that those that only wait are answered at once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler: s.Echo, ReadHeaderTimeout: readHeaderTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: HeaderMax, BaseContext: func(net.Listener) context.Context { return ctx },
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	select {
	case err := <-failed:
		return fmt.Errorf("http: %w", err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	return server.Shutdown(stop)
}

func (s *Server) ready(c echo.Context) error {
	status, report := http.StatusOK, map[string]string{}
	for name, check := range s.checks {
		report[name] = "ok"
		if err := check(c.Request().Context()); err != nil {
			status, report[name] = http.StatusServiceUnavailable, err.Error()
		}
	}
	return c.JSON(status, map[string]any{"ready": status == http.StatusOK, "checks": report})
}

// Problem is an error for the client, as RFC 9457 has it: what, why, what to do.
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	// Instance is the path that was asked for.
	Instance string `json:"instance,omitempty"`
	// Code is the name of the problem, for programs.
	Code string `json:"code"`
}

// Error implements error.
func (p *Problem) Error() string { return p.Code + ": " + p.Detail }

// Problemf makes a problem; code is a short name such as "unknown-order".
func Problemf(status int, code, format string, args ...any) *Problem {
	return &Problem{Type: "/problems/" + code, Title: http.StatusText(status), Status: status, Code: code, Detail: fmt.Sprintf(format, args...)}
}

var statusOf = map[flow.Code]int{
	flow.Invalid: http.StatusUnprocessableEntity, flow.NotFound: http.StatusNotFound, flow.Conflict: http.StatusConflict,
}

// Command is a person's wish, as a request has brought it.
type Command struct {
	// Step is the Command step of the flow; Scope tells requests with the same Idempotency-Key apart that are not about
	// the same thing.
	Step, Scope string
	Saga        uuid.UUID
	Actor       string
	Wish        any
	// Body is what the request said, for telling a repetition from a new wish with an old key.
	Body []byte
}

// Do carries a command out and waits for its verdict: handled now, or a Duplicate of a request that had been handled
// before. Everything else is an error to return: a refusal is the client's, trouble is ours.
func Do(c echo.Context, in *flow.Intake, cmd Command) (flow.Verdict, error) {
	id, err := MessageID(c, cmd.Step+"/"+cmd.Scope)
	if err != nil {
		return flow.Verdict{}, err
	}
	m := flow.NewCommand(cmd.Step, id, cmd.Saga, cmd.Actor, cmd.Wish)
	digest := sha256.Sum256(cmd.Body)
	m.Digest = digest[:]
	v := in.Do(c.Request().Context(), m)
	if err := Failed(v); err != nil {
		return v, err
	}
	if v.Duplicate && !bytes.Equal(v.First.Digest, m.Digest) {
		return v, Problemf(http.StatusUnprocessableEntity, "idempotency-key-reused",
			"This Idempotency-Key came before with another body (saga %s). Use a new key for a new request.", v.First.Saga)
	}
	return v, nil
}

// Failed is the error of a verdict: a refusal is the client's, trouble is ours. nil when the command was carried out, now
// or before.
func Failed(v flow.Verdict) error {
	switch {
	case v.Refusal != nil:
		return Problemf(statusOf[v.Refusal.Code], v.Refusal.Name, "%s", v.Refusal.Detail)
	case errors.Is(v.Err, store.ErrUnavailable):
		return unavailable
	}
	return v.Err
}

var unavailable = Problemf(http.StatusServiceUnavailable, "unavailable", "The service cannot reach its database just now. Try again; a request with the same Idempotency-Key is done once.")

// problem answers every error as a problem document.
func (s *Server) problem(err error, c echo.Context) {
	if c.Response().Committed {
		return
	}
	var p *Problem
	var h *echo.HTTPError
	switch {
	case errors.As(err, &p):
	// A cancelled request is one whose client has gone, or whom the stop of the service found waiting.
	case errors.Is(store.Trouble(err), store.ErrUnavailable), errors.Is(err, context.Canceled):
		s.log.Warn("request without a database", zap.String("method", c.Request().Method), zap.String("path", c.Path()), zap.Error(err))
		p = unavailable
	case errors.As(err, &h):
		code := strings.ReplaceAll(strings.ToLower(http.StatusText(h.Code)), " ", "-")
		p = Problemf(h.Code, code, "%s %s: %v", c.Request().Method, c.Request().URL.Path, h.Message)
	default:
		s.log.Error("request failed", zap.String("method", c.Request().Method), zap.String("path", c.Path()), zap.Error(err))
		p = Problemf(http.StatusInternalServerError, "internal", "Something went wrong on our side; it has been logged.")
	}
	answer := *p
	answer.Instance = c.Request().URL.Path
	if p.Status == http.StatusServiceUnavailable {
		c.Response().Header().Set("Retry-After", "1")
	}
	c.Response().Header().Set(echo.HeaderContentType, "application/problem+json")
	c.Response().WriteHeader(p.Status)
	if c.Request().Method != http.MethodHead {
		_ = json.NewEncoder(c.Response()).Encode(answer)
	}
}

func (s *Server) recoverPanics(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) (err error) {
		defer func() {
			if p := recover(); p != nil {
				s.log.Error("panic in a request", zap.String("path", c.Path()), zap.Any("panic", p), zap.Stack("stack"))
				err = fmt.Errorf("panic: %v", p)
			}
		}()
		return next(c)
	}
}

// Decode reads one strict JSON object into v: at most BodyMax bytes, no unknown fields, nothing after it. It returns the
// bytes too, for a digest.
func Decode(c echo.Context, v any) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(c.Request().Body, BodyMax+1))
	if err != nil {
		return nil, Problemf(http.StatusBadRequest, "unreadable-body", "The body could not be read: %v.", err)
	}
	if len(body) > BodyMax {
		return nil, Problemf(http.StatusRequestEntityTooLarge, "body-too-large", "The body has more than %d bytes.", BodyMax)
	}
	text := strings.TrimLeft(string(body), " \t\r\n")
	if text != "" && text[0] != '{' {
		return nil, Problemf(http.StatusBadRequest, "malformed-json", "The body must be one JSON object as documented: it is not an object.")
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return nil, Problemf(http.StatusBadRequest, "malformed-json", "The body must be one JSON object as documented: %s.", explain(err))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, Problemf(http.StatusBadRequest, "malformed-json", "There is something after the JSON object; send one object only.")
	}
	return body, nil
}

// kinds are the words for what a value is.
var kinds = map[string]string{"string": "a text", "number": "a number", "bool": "true or false", "array": "a list", "object": "an object"}

// explain says what is wrong with a body in the words of the wire, not of Go.
func explain(err error) string {
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrong):
		kind, number, _ := strings.Cut(wrong.Value, " ")
		if number != "" {
			return fmt.Sprintf("%s cannot be the number %s", wrong.Field, number)
		}
		return fmt.Sprintf("%s cannot be %s", wrong.Field, cmp.Or(kinds[kind], kind))
	case errors.Is(err, io.EOF):
		return "it is empty"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "it ends in the middle"
	}
	return strings.TrimPrefix(err.Error(), "json: ")
}

// keyMax is how long an Idempotency-Key may be.
const keyMax = 200

// MessageID is the inbox key of a request: derived from its Idempotency-Key within the scope, so that a repeated request
// is the same message; or a new one.
func MessageID(c echo.Context, scope string) (uuid.UUID, error) {
	key := c.Request().Header.Get("Idempotency-Key")
	if key == "" {
		return event.NewID(), nil
	}
	if !Printable(key, keyMax) {
		return uuid.Nil, Problemf(http.StatusBadRequest, "invalid-idempotency-key", "Idempotency-Key must have 1 to %d printable characters.", keyMax)
	}
	return event.DerivedID(uuid.Nil, scope+"/"+key), nil
}

// Printable tells whether s has 1 to most characters, all of them printable.
func Printable(s string, most int) bool {
	return s != "" && utf8.ValidString(s) && utf8.RuneCountInString(s) <= most && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}
