package partners

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"go.uber.org/zap"
)

// Limits of requests.
const (
	maxBody    = 64 << 10
	maxKey     = 200 // characters of a key, printable ASCII
	maxName    = 100 // characters of an order's ID, a token, a courier
	maxAddress = 200 // characters of an address
)

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	// A path that is known but not with this method, and one that is not known at all, are problems like others.
	route := func(path string, methods map[string]http.HandlerFunc) {
		var allowed []string
		for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodPost} {
			if handle := methods[method]; handle != nil {
				mux.HandleFunc(method+" "+path, handle)
				allowed = append(allowed, method)
			}
		}
		allow := strings.Join(allowed, ", ")
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Allow", allow)
			problem(w, http.StatusMethodNotAllowed, fmt.Sprintf("%s doesn't know %s, only %s", r.URL.Path, r.Method, allow))
		})
	}
	type on = map[string]http.HandlerFunc

	route("/captures/{key}", on{"PUT": s.limited(s.capture)})
	route("/captures/{key}/void", on{"POST": s.limited(s.voidCapture)})
	route("/dispatches/{key}", on{"PUT": s.limited(s.dispatch)})
	route("/dispatches/{key}/void", on{"POST": s.limited(s.voidDispatch)})
	route("/handovers/{key}", on{"PUT": s.limited(s.handOver)})
	route("/handovers/{key}/void", on{"POST": s.limited(s.voidHandOver)})
	route("/ledger", on{"GET": s.limited(s.getLedger)})
	route("/summary", on{"GET": s.getSummary})
	route("/faults", on{"GET": s.getFaults, "PUT": s.putFaults})
	route("/livez", on{"GET": s.livez})
	route("/readyz", on{"GET": s.readyz})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		problem(w, http.StatusNotFound, "there is nothing at "+r.URL.Path)
	})
	return mux
}

// limited bounds the requests that are under way.
func (s *Server) limited(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		defer s.inFlight.Add(-1)
		if s.inFlight.Add(1) > int64(s.cfg.MaxInFlight) {
			problem(w, http.StatusServiceUnavailable, fmt.Sprintf("%d requests are under way, no more are taken", s.cfg.MaxInFlight))
			return
		}
		next(w, r)
	}
}

// The three ways in which a request ends without an entry in a ledger.
var (
	errStopping = errors.New("the partners are stopping")
	errFault    = errors.New("switched trouble, nothing was booked; try again")
	errSilence  = errors.New("no answer") // the connection closes
)

// enter lets the trouble happen that comes before anything is decided.
func (s *Server) enter(f Fault) error {
	if err := s.wait(time.Duration(f.LatencyMS) * time.Millisecond); err != nil {
		return err
	}
	if s.dice.hit(f.ErrorRate) {
		return errFault
	}
	return nil
}

// leave loses the answer to what was booked, now and then.
func (s *Server) leave(f Fault) error {
	if s.dice.hit(f.LostRate) {
		return errSilence
	}
	return nil
}

// wait lasts d whether the client stays or not: a partner finishes what it has begun, and that is how outcomes get unknown.
func (s *Server) wait(d time.Duration) error {
	if d <= 0 {
		return nil
	}
	select {
	case <-s.cfg.After(d):
		return nil
	case <-s.stopping:
		return errStopping
	}
}

// hold never answers: it ends when the client goes away, or is cut off after DownFor.
func (s *Server) hold(r *http.Request) error {
	select {
	case <-r.Context().Done():
	case <-s.cfg.After(s.cfg.DownFor):
	case <-s.stopping:
	}
	return errSilence
}

// fail tells why there is no answer.
func (s *Server) fail(w http.ResponseWriter, err error) {
	var bad *badRequest
	switch {
	case errors.Is(err, errSilence):
		panic(http.ErrAbortHandler) // net/http closes the connection and logs nothing
	case errors.As(err, &bad):
		problem(w, bad.status, bad.detail)
	case errors.Is(err, errFault), errors.Is(err, errStopping), errors.Is(err, errClosed), errors.Is(err, errFlaky):
		problem(w, http.StatusServiceUnavailable, err.Error())
	default:
		s.cfg.Log.Error("partners: request failed", zap.Error(err))
		problem(w, http.StatusInternalServerError, err.Error())
	}
}

// badRequest is a request that can't be meant: its status and what is wrong with it.
type badRequest struct {
	status int
	detail string
}

func (e *badRequest) Error() string { return e.detail }

func unprocessable(format string, args ...any) error {
	return &badRequest{status: http.StatusUnprocessableEntity, detail: fmt.Sprintf(format, args...)}
}

// buffers hold a request's body first and its answer afterwards.
var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

func withBuffer(use func(*bytes.Buffer)) {
	b := buffers.Get().(*bytes.Buffer)
	defer buffers.Put(b) // at most maxBody is read into it, so it stays small
	b.Reset()
	use(b)
}

// decode reads a JSON body into v. An empty body is an error unless it may be left out.
func decode(r *http.Request, b *bytes.Buffer, v any, optional bool) error {
	if r.ContentLength > maxBody {
		return &badRequest{http.StatusRequestEntityTooLarge, fmt.Sprintf("the body has %d bytes, at most %d are taken", r.ContentLength, maxBody)}
	}
	if _, err := b.ReadFrom(io.LimitReader(r.Body, maxBody+1)); err != nil {
		return &badRequest{http.StatusBadRequest, "the body can't be read: " + err.Error()}
	}
	if b.Len() > maxBody {
		return &badRequest{http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is longer than %d bytes", maxBody)}
	}
	body := b.Bytes()
	if len(body) == 0 && optional {
		return nil
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(v); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("it is empty")
		}
		return &badRequest{http.StatusBadRequest, "the body is not the JSON that is expected: " + err.Error()}
	}
	if rest := bytes.TrimSpace(body[decoder.InputOffset():]); len(rest) > 0 {
		return &badRequest{http.StatusBadRequest, "something follows the JSON in the body"}
	}
	return nil
}

// requestKey is the {key} in the path.
func requestKey(r *http.Request) (string, error) {
	key := r.PathValue("key")
	if key == "" || len(key) > maxKey {
		return "", &badRequest{http.StatusBadRequest, fmt.Sprintf("the key has %d characters, must have 1 to %d", len(key), maxKey)}
	}
	for i := range len(key) {
		if key[i] <= ' ' || key[i] > '~' {
			return "", &badRequest{http.StatusBadRequest, fmt.Sprintf("the key %q has characters other than printable ASCII", key)}
		}
	}
	return key, nil
}

// checkText wants 1 to max characters, of any kind: what they mean is the shop's business.
func checkText(name, text string, max int) error {
	if text == "" {
		return unprocessable("%s is missing", name)
	}
	if len(text) > max && utf8.RuneCountInString(text) > max {
		return unprocessable("%s has %d characters, at most %d are taken", name, utf8.RuneCountInString(text), max)
	}
	return nil
}

// Header values, shared so that no request allocates them.
var (
	jsonType    = []string{"application/json"}
	problemType = []string{"application/problem+json"}
	linesType   = []string{"application/x-ndjson"}
)

func respond(w http.ResponseWriter, status int, body []byte) {
	w.Header()["Content-Type"] = jsonType
	w.WriteHeader(status)
	w.Write(body) // an error means that the client is gone
}

func respondJSON(w http.ResponseWriter, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		problem(w, http.StatusInternalServerError, err.Error())
		return
	}
	respond(w, http.StatusOK, append(body, '\n'))
}

// problem answers as RFC 9457 says.
func problem(w http.ResponseWriter, status int, detail string) {
	body, _ := json.Marshal(struct { // strings and a number always have a JSON form
		Type   string `json:"type"`
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}{"about:blank", http.StatusText(status), status, detail})
	w.Header()["Content-Type"] = problemType
	w.WriteHeader(status)
	w.Write(append(body, '\n'))
}

func (s *Server) livez(w http.ResponseWriter, _ *http.Request) {
	respond(w, http.StatusOK, []byte(`{"status":"ok"}`+"\n"))
}

// readyz says no while the server stops and when a ledger can't be written.
func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	select {
	case <-s.stopping:
		problem(w, http.StatusServiceUnavailable, errStopping.Error())
		return
	default:
	}
	if err := errors.Join(s.gateway.err(), s.courier.err()); err != nil {
		problem(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	respond(w, http.StatusOK, []byte(`{"status":"ready"}`+"\n"))
}

func (s *Server) getFaults(w http.ResponseWriter, _ *http.Request) {
	respondJSON(w, s.faults.Load())
}

func (s *Server) putFaults(w http.ResponseWriter, r *http.Request) {
	withBuffer(func(b *bytes.Buffer) {
		var f Faults
		err := decode(r, b, &f, false)
		if err == nil {
			if err = s.SetFaults(f); err != nil {
				err = unprocessable("%s", strings.ReplaceAll(err.Error(), "\n", "; "))
			}
		}
		if err != nil {
			s.fail(w, err)
			return
		}
		respondJSON(w, f)
	})
}
