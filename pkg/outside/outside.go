// Package outside is the HTTP client behind the ports of services: for outside parties that take a key with each call and
// do at most once what is asked under it.
package outside

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"hotchoc/pkg/flow"
)

// Limits of a call; how long it may take in all is up to its context.
const (
	replyMax      = 64 << 10
	connectionMax = 256
	dialTimeout   = 5 * time.Second
	idleTimeout   = 90 * time.Second
	livezTimeout  = 2 * time.Second
)

// Party is an outside party at a base URL. Safe for concurrent use.
type Party struct {
	name   string
	base   string
	client *http.Client
}

// New returns a party. name is what errors call it, such as "gateway".
func New(name, baseURL string) *Party {
	return &Party{
		name: name,
		base: strings.TrimSuffix(baseURL, "/"),
		client: &http.Client{
			// Its own connections, kept for the next call. PUT is sent once: repeating it is the caller's decision.
			Transport: &http.Transport{
				DialContext:         (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext,
				MaxIdleConns:        connectionMax,
				MaxIdleConnsPerHost: connectionMax,
				IdleConnTimeout:     idleTimeout,
				TLSHandshakeTimeout: dialTimeout,
				DisableCompression:  true,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// Call asks once: METHOD base/path/KEYverb. request is sent as JSON unless it is nil; reply is filled from the answer if
// its status is one of those that say what became of the key. Any other answer, or none, is an error: the outcome is
// unknown, or flow.ErrAway when there was nobody to ask.
func (p *Party) Call(ctx context.Context, method, path, key, verb string, request, reply any, says ...int) error {
	if key == "" || key == "." || key == ".." { // no path could carry it
		return fmt.Errorf("%q is not a key", key)
	}
	var body io.Reader
	if request != nil {
		text, err := json.Marshal(request)
		if err != nil {
			return err
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, p.base+path+url.PathEscape(key)+verb, body)
	if err != nil {
		return err
	}
	if request != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := p.client.Do(req)
	if err != nil {
		return flow.Away(err) // it says method, URL and why
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, replyMax+1)) // to its end, so that the connection can be used again
	if err == nil && len(text) > replyMax {
		err = fmt.Errorf("it is longer than %d bytes", replyMax)
	}
	if err != nil {
		return fmt.Errorf("read the %s's answer: %w", p.name, err)
	}
	for _, status := range says {
		if res.StatusCode == status {
			if err := json.Unmarshal(text, reply); err != nil {
				return fmt.Errorf("read the %s's answer %s: %w", p.name, res.Status, err)
			}
			return nil
		}
	}
	var problem struct{ Detail string }
	if json.Unmarshal(text, &problem) != nil || problem.Detail == "" {
		problem.Detail = "no details"
	}
	return errors.New("the " + p.name + " answered " + res.Status + ": " + problem.Detail)
}

// Reachable asks base/livez: nil means that somebody is there.
func (p *Party) Reachable(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, livezTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.base+"/livez", nil)
	if err != nil {
		return err
	}
	res, err := p.client.Do(req)
	if err != nil {
		return fmt.Errorf("the %s is away: %w", p.name, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("the %s says it is not well: %s", p.name, res.Status)
	}
	return nil
}
