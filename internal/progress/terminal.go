package progress

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// Terminal shows steps to a person: those under way as bars that are redrawn in
// place, those that ended as lines above them. It knows of terminals only what
// every one has done since the VT100: moving up and erasing.
type Terminal struct {
	w     io.Writer
	width func() int
	look  Look
	stop  chan struct{}
	done  chan struct{}

	mu      sync.Mutex
	live    []bar
	drawn   int       // lines below which the cursor stands
	last    time.Time // of the drawing
	drawnAt int       // when it was drawn
}

// Look is what a terminal can show.
type Look struct {
	Unicode bool // blocks and ticks instead of ASCII
	Colour  bool
}

// bar is a step under way.
type bar struct {
	step  string
	n, of int64
	begun time.Time
}

const (
	drawEvery = 100 * time.Millisecond // a person sees it move
	tickEvery = 500 * time.Millisecond // seconds go on where nothing else does
	maxBars   = 8
	minWidth  = 20
)

// NewTerminal makes one that writes to w; width is asked at each drawing, so that
// a window may change. Close must be called.
func NewTerminal(w io.Writer, width func() int, look Look) *Terminal {
	t := &Terminal{w: w, width: width, look: look, stop: make(chan struct{}), done: make(chan struct{})}
	go t.tick()
	return t
}

// tick draws also while no event comes.
func (t *Terminal) tick() {
	defer close(t.done)
	every := time.NewTicker(tickEvery)
	defer every.Stop()
	for {
		select {
		case <-t.stop:
			return
		case now := <-every.C:
			t.mu.Lock()
			if len(t.live) > 0 {
				t.draw(now, "")
			}
			t.mu.Unlock()
		}
	}
}

// Sink receives the events.
func (t *Terminal) Sink(e Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := t.find(e.Step)
	switch e.State {
	case Started:
		t.live = append(t.live, bar{step: e.Step, begun: e.At})
	case Running:
		if i < 0 {
			return
		}
		t.live[i].n, t.live[i].of = e.N, e.Of
		if e.At.Sub(t.last) < drawEvery {
			return
		}
	default:
		if i < 0 {
			return
		}
		ended := t.live[i]
		t.live = append(t.live[:i:i], t.live[i+1:]...)
		t.draw(e.At, t.ended(ended, e))
		return
	}
	t.draw(e.At, "")
}

// find returns the latest step of that name, -1 for none.
func (t *Terminal) find(step string) int {
	for i := len(t.live) - 1; i >= 0; i-- {
		if t.live[i].step == step {
			return i
		}
	}
	return -1
}

// Above lets f write lines that stay, above what is redrawn.
func (t *Terminal) Above(f func(w io.Writer)) {
	var b strings.Builder
	f(&b)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.draw(time.Now(), b.String())
}

// Close takes the bars away. Steps that did not end are not shown any more.
func (t *Terminal) Close() {
	close(t.stop)
	<-t.done
	t.mu.Lock()
	defer t.mu.Unlock()
	t.live = nil
	t.draw(time.Now(), "")
}

// draw writes what stays, then the bars, over the bars of last time.
func (t *Terminal) draw(now time.Time, stays string) {
	width := max(t.width(), minWidth)
	var b strings.Builder
	up := t.drawn
	if width < t.drawnAt { // the terminal may have broken our lines in two
		up *= (t.drawnAt + width - 1) / width
	}
	if up > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", up)
	}
	b.WriteString("\r\x1b[J")
	b.WriteString(stays)
	t.drawn = 0
	for _, x := range t.live[max(0, len(t.live)-maxBars):] {
		b.WriteString(t.line(x, now, width-1)) // the last column makes some terminals go on to the next line
		b.WriteString("\n")
		t.drawn++
	}
	t.last, t.drawnAt = now, width
	_, _ = io.WriteString(t.w, b.String()) // where nobody can see it any more the work goes on
}

const (
	nameWidth = 26
	green     = "\x1b[32m"
	red       = "\x1b[31m"
	plain     = "\x1b[0m"
)

// ended is the line of a step that is over.
func (t *Terminal) ended(x bar, e Event) string {
	mark, colour, tail := "+", green, ""
	if t.look.Unicode {
		mark = "✓"
	}
	if e.State == Failed {
		if mark, colour, tail = "x", red, "  "+firstLine(e.Err); t.look.Unicode {
			mark = "✗"
		}
	}
	if t.look.Colour {
		mark = colour + mark + plain
	}
	return fmt.Sprintf(" %s %s %8s%s\n", mark, pad(x.step, nameWidth), took(e.At.Sub(x.begun)), tail)
}

// line is a bar of at most width columns:
//
//	compress system            [########------------]  41 %   9.1 s, 13 s left
func (t *Terminal) line(x bar, now time.Time, width int) string {
	spent := max(now.Sub(x.begun), 0)
	head := "   " + pad(x.step, nameWidth)
	if x.of <= 0 {
		return clip(head+fmt.Sprintf(" %8s", took(spent)), width)
	}
	part := min(max(float64(x.n)/float64(x.of), 0), 1)
	tail := fmt.Sprintf(" %3.0f %% %8s", part*100, took(spent))
	if left := rest(part, spent); left != "" {
		tail += ", " + left
	}
	room := min(width-utf8.RuneCountInString(head)-utf8.RuneCountInString(tail)-3, 40)
	if room < 5 {
		return clip(head+tail, width)
	}
	return head + " " + t.meter(part, room) + tail
}

// meter is the bar itself, in a frame.
func (t *Terminal) meter(part float64, room int) string {
	if !t.look.Unicode {
		full := int(part * float64(room))
		return "[" + strings.Repeat("#", full) + strings.Repeat("-", room-full) + "]"
	}
	eighths := int(part * float64(room) * 8)
	s := strings.Repeat("█", eighths/8)
	if n := eighths % 8; n > 0 {
		s += string([]rune("▏▎▍▌▋▊▉")[n-1])
	}
	return "▕" + s + strings.Repeat(" ", room-utf8.RuneCountInString(s)) + "▏"
}

// rest is how long it may still take. What was seen must be enough to go by.
func rest(part float64, spent time.Duration) string {
	if part < 0.05 || spent < 2*time.Second || part >= 1 {
		return ""
	}
	return fmt.Sprintf("%s left", span(time.Duration(float64(spent)*(1-part)/part)))
}

// took is a duration as a table has it, span as a sentence.
func took(d time.Duration) string {
	if d < 100*time.Second {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return span(d)
}

func span(d time.Duration) string {
	s := int(d.Seconds() + 0.5)
	if s < 100 {
		return fmt.Sprintf("%d s", s)
	}
	return fmt.Sprintf("%d min %02d s", s/60, s%60)
}

func pad(s string, n int) string {
	return s + strings.Repeat(" ", max(0, n-utf8.RuneCountInString(s)))
}

// clip cuts a line that must not be broken by the terminal.
func clip(s string, width int) string {
	if r := []rune(s); len(r) > width {
		return string(r[:width])
	}
	return s
}
