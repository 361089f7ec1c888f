package join

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"joist/cluster/store"
	"joist/internal/finding"
)

const (
	maxBody = 8 << 20 // records of a few thousand guests
	atOnce  = 4       // requests of strangers that are worked on at a time
)

// Handler serves the exchange below /joist/v1/join/. It asks for no
// certificate; every message carries its proof. Whatever is refused is answered
// with a finding.List as JSON.
func (v *Voter) Handler() http.Handler {
	slots := make(chan struct{}, atOnce)
	m := http.NewServeMux()
	m.Handle("POST "+PathHello, v.post(slots, func(ctx context.Context, s Signed) (any, error) { return v.Hello(ctx, s) }))
	m.Handle("POST "+PathCommit, v.post(slots, func(ctx context.Context, s Signed) (any, error) { return v.Commit(ctx, s) }))
	m.Handle("POST "+PathAbort, v.post(slots, func(ctx context.Context, s Signed) (any, error) { return struct{}{}, v.Abort(ctx, s) }))
	return m
}

func (v *Voter) post(slots chan struct{}, do func(context.Context, Signed) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		case <-r.Context().Done():
			return
		}
		// A stranger who sends slowly holds a place; where the connection has no
		// deadlines there is nobody to hold it.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(exchangeTime))
		var s Signed
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&s); err != nil {
			v.answer(w, r, nil, malformed(err))
			return
		}
		// What was begun is finished: the joiner may be gone, its commit is not.
		out, err := do(context.WithoutCancel(r.Context()), s)
		v.answer(w, r, out, err)
	})
}

func (v *Voter) answer(w http.ResponseWriter, r *http.Request, out any, err error) {
	status := http.StatusOK
	var no *Refused
	var list finding.List
	switch {
	case err == nil:
	case errors.As(err, &no):
		status, out = http.StatusConflict, no.Findings
		if no.Has("message-invalid") {
			status = http.StatusBadRequest
		}
		v.Log.Info("join refused", "path", r.URL.Path, "remote", r.RemoteAddr, "why", no.Error())
	case errors.Is(err, store.ErrNoQuorum):
		list.Stopf("no-quorum", "", "start nodes that are down, then try again", "the cluster cannot decide: too few of its nodes are there")
		status, out = http.StatusServiceUnavailable, list
	default:
		v.Log.Error("join", "path", r.URL.Path, "remote", r.RemoteAddr, "error", err)
		list.Stopf("internal", "", "look into the log of node "+v.Node, "node %s could not do it", v.Node)
		status, out = http.StatusInternalServerError, list
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(out); err != nil {
		v.Log.Info("join: the answer did not get through", "path", r.URL.Path, "remote", r.RemoteAddr, "error", err)
	}
}
