package peer

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"
)

// LivePath is the call behind which a node streams its status to another.
const LivePath = "/joist/v1/peer/live"

const (
	frameEvery = 3 * time.Second  // a frame comes at least so often
	onlineFor  = 10 * time.Second // and counts so long
	retryAfter = time.Second
	maxFrame   = 32 << 20
)

// frame is one line of the stream. Data is missing when nothing changed.
type frame struct {
	Seq  uint64          `json:"seq"`
	Time time.Time       `json:"time,omitzero"` // by the sender's clock
	Data json.RawMessage `json:"data,omitempty"`
}

// Feed is this node's status, as others are told.
type Feed struct {
	mu   sync.Mutex
	seq  uint64
	data json.RawMessage
	wake chan struct{}
}

// NewFeed makes a Feed that has nothing to tell yet.
func NewFeed() *Feed { return &Feed{wake: make(chan struct{})} }

// Publish replaces the status; what is the same is not sent again.
func (f *Feed) Publish(data json.RawMessage) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if string(data) == string(f.data) {
		return
	}
	f.seq++
	f.data = data
	close(f.wake)
	f.wake = make(chan struct{})
}

func (f *Feed) next(seq uint64) (frame, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fr := frame{Seq: f.seq, Time: time.Now().UTC()}
	if f.seq != seq {
		fr.Data = f.data
	}
	return fr, f.wake
}

// ServeHTTP streams the status until the other side goes.
func (f *Feed) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rc := http.NewResponseController(w)
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc := json.NewEncoder(w)
	var seq uint64
	for {
		fr, wake := f.next(seq)
		seq = fr.Seq
		rc.SetWriteDeadline(time.Now().Add(onlineFor))
		if enc.Encode(fr) != nil || rc.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-wake:
		case <-time.After(frameEvery):
		}
	}
}

// State is the last that a node told.
type State struct {
	Data   json.RawMessage
	At     time.Time     // when its last frame came, zero if none ever did
	Skew   time.Duration // of its clock against this node's, less what the way took
	Online bool
	Error  string // why it is away
}

// Watcher follows the streams of all other nodes.
type Watcher struct {
	book   *Book
	client *Client
	log    *slog.Logger
	now    func() time.Time

	mu     sync.Mutex
	states map[string]State
	stops  map[string]context.CancelFunc
}

// NewWatcher makes a Watcher; Run makes it follow.
func NewWatcher(b *Book, c *Client, log *slog.Logger) *Watcher {
	return &Watcher{book: b, client: c, log: log, now: time.Now, states: map[string]State{}, stops: map[string]context.CancelFunc{}}
}

// Run follows every node of the roster until ctx ends.
func (w *Watcher) Run(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	for {
		changed := w.book.Changed()
		w.mu.Lock()
		there := map[string]bool{}
		for _, n := range w.book.Nodes() {
			there[n.Name] = true
			if n.Name == w.book.Self() || w.stops[n.Name] != nil {
				continue
			}
			one, stop := context.WithCancel(ctx)
			w.stops[n.Name] = stop
			all.Go(func() { w.follow(one, n.Name) })
		}
		for name, stop := range w.stops {
			if !there[name] {
				stop()
				delete(w.stops, name)
				delete(w.states, name)
			}
		}
		w.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

func (w *Watcher) follow(ctx context.Context, name string) {
	for ctx.Err() == nil {
		changed := w.book.Changed()
		err := w.stream(ctx, name)
		if ctx.Err() != nil {
			return
		}
		w.note(name, func(s *State) { s.Error = err.Error() })
		select {
		case <-ctx.Done():
		case <-changed: // perhaps its address
		case <-time.After(retryAfter):
		}
	}
}

func (w *Watcher) stream(ctx context.Context, name string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, LivePath, nil)
	if err != nil {
		return err
	}
	resp, err := w.client.RoundTrip(name, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("follow node %q: %s", name, resp.Status)
	}
	// A peer that is cut off says nothing, not even goodbye.
	silent := time.AfterFunc(onlineFor, cancel)
	defer silent.Stop()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 64<<10), maxFrame)
	for lines.Scan() {
		var f frame
		if err := json.Unmarshal(lines.Bytes(), &f); err != nil {
			return fmt.Errorf("follow node %q: %w", name, err)
		}
		silent.Reset(onlineFor)
		w.note(name, func(s *State) {
			s.At, s.Error = w.now(), ""
			if !f.Time.IsZero() {
				s.Skew = f.Time.Sub(s.At)
			}
			if f.Data != nil {
				s.Data = append(json.RawMessage{}, f.Data...)
			}
		})
	}
	if err := lines.Err(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("follow node %q: %w", name, err)
	}
	return fmt.Errorf("follow node %q: %w", name, ErrAway)
}

func (w *Watcher) note(name string, f func(*State)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.states[name]
	f(&s)
	w.states[name] = s
}

// State returns the last that a node told.
func (w *Watcher) State(name string) State {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.states[name]
	s.Online = !s.At.IsZero() && w.now().Sub(s.At) < onlineFor && s.Error == ""
	return s
}

// Away returns the nodes that are not online.
func (w *Watcher) Away() []string {
	var out []string
	for _, n := range w.book.Nodes() {
		if n.Name != w.book.Self() && !w.State(n.Name).Online {
			out = append(out, n.Name)
		}
	}
	return out
}
