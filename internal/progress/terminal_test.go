package progress

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"
)

// screen is as much of a terminal as Terminal counts on: lines, a cursor, moving
// up, erasing to the end, and lines that break at its width.
type screen struct {
	t     *testing.T
	mu    sync.Mutex
	width int
	lines []string
	row   int
}

var escape = regexp.MustCompile(`^\x1b\[([0-9]*)([A-Za-z])`)

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for rest := string(p); rest != ""; {
		if len(s.lines) <= s.row {
			s.lines = append(s.lines, "")
		}
		if m := escape.FindStringSubmatch(rest); m != nil {
			switch m[2] {
			case "A":
				var n int
				fmt.Sscan(m[1], &n)
				if s.row -= n; s.row < 0 {
					s.t.Errorf("moved %d lines above the first", -s.row)
					s.row = 0
				}
			case "J":
				s.lines = append(s.lines[:s.row], "")
			case "m":
			default:
				s.t.Errorf("sequence %q", m[0])
			}
			rest = rest[len(m[0]):]
			continue
		}
		r, n := utf8.DecodeRuneInString(rest)
		rest = rest[n:]
		switch r {
		case '\n':
			s.row++
		case '\r':
		default:
			if utf8.RuneCountInString(s.lines[s.row]) == s.width {
				s.row++
				s.lines = append(s.lines, "")
			}
			s.lines[s.row] += string(r)
		}
	}
	return len(p), nil
}

func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.TrimRight(strings.Join(s.lines, "\n"), "\n")
}

func newScreen(t *testing.T, width int, look Look) (*screen, *Terminal) {
	s := &screen{t: t, width: width}
	return s, NewTerminal(s, func() int { return width }, look)
}

var start = time.Now()

func event(step string, state State, after time.Duration, n, of int64) Event {
	return Event{Step: step, State: state, N: n, Of: of, At: start.Add(after)}
}

func want(t *testing.T, s *screen, text string) {
	t.Helper()
	if got := s.text(); got != strings.Trim(text, "\n") {
		t.Errorf("the screen shows\n%s\nwant\n%s", got, strings.Trim(text, "\n"))
	}
}

func TestTerminal(t *testing.T) {
	s, term := newScreen(t, 90, Look{})
	term.Sink(event("compile programs", Started, 0, 0, 0))
	term.Sink(event("fetch packages", Started, 0, 0, 0))
	term.Sink(event("fetch packages", Running, 4*time.Second, 25, 100))
	term.Sink(event("fetch packages", Running, 4*time.Second+time.Millisecond, 99, 100)) // too soon to be drawn
	want(t, s, `
   compile programs              4.0 s
   fetch packages             [#######------------------------]  25 %    4.0 s, 12 s left
`)
	term.Sink(event("fetch packages", Finished, 16*time.Second, 0, 0))
	term.Above(func(w io.Writer) { fmt.Fprintln(w, "joist.toml:1:1: warning: something") })
	failed := event("compile programs", Failed, 200*time.Second, 0, 0)
	failed.Err = errors.New("exit status 1\nwith a second line")
	term.Sink(failed)
	term.Sink(event("never begun", Running, 0, 1, 2))
	term.Sink(event("pack initrd", Started, 200*time.Second, 0, 0))
	term.Close()
	want(t, s, `
 + fetch packages               16.0 s
joist.toml:1:1: warning: something
 x compile programs           3 min 20 s  exit status 1
`)
}

func TestTerminalUnicode(t *testing.T) {
	s, term := newScreen(t, 60, Look{Unicode: true, Colour: true})
	term.Sink(event("compress", Started, 0, 0, 0))
	term.Sink(event("compress", Running, time.Second, 25, 72))
	want(t, s, `   compress                   ▕████▏       ▏  35 %    1.0 s`)
	term.Sink(event("compress", Running, 2*time.Second, 5, 3)) // more than all
	want(t, s, `   compress                   ▕████████████▏ 100 %    2.0 s`)
	term.Sink(event("compress", Finished, 2*time.Second, 0, 0))
	want(t, s, ` ✓ compress                      2.0 s`)
	term.Close()
}

// Whatever the width and however it changes, no line is broken, and what was
// drawn is found again.
func TestTerminalNarrow(t *testing.T) {
	for _, width := range []int{1, 20, 30, 44, 45, 200} {
		s := &screen{t: t, width: max(width, 20)}
		term := NewTerminal(s, func() int { return width }, Look{})
		for i := range 12 {
			step := fmt.Sprintf("a step with a rather long name %d", i)
			term.Sink(event(step, Started, 0, 0, 0))
			term.Sink(event(step, Running, 3*time.Second, 50, 100))
		}
		if got := strings.Count(s.text(), "\n"); got != maxBars-1 {
			t.Errorf("width %d: %d lines are drawn\n%s", width, got+1, s.text())
		}
		term.Close()
		want(t, s, "")
	}
	// A window that becomes narrower breaks what is there.
	width := 60
	s := &screen{t: t, width: 60}
	term := NewTerminal(s, func() int { return width }, Look{})
	term.Above(func(w io.Writer) { fmt.Fprintln(w, "stays") })
	for _, step := range []string{"a", "b"} {
		term.Sink(event(step, Started, 0, 0, 0))
		term.Sink(event(step, Running, 10*time.Second, 50, 100))
	}
	s.mu.Lock()
	var broken []string
	for _, l := range s.lines[:3] {
		for r := []rune(l); len(r) > 30; r = []rune(l) {
			broken, l = append(broken, string(r[:30])), string(r[30:])
		}
		broken = append(broken, l)
	}
	s.lines, s.row, s.width, width = append(broken, ""), len(broken), 30, 30
	s.mu.Unlock()
	term.Sink(event("c", Started, 10*time.Second, 0, 0))
	if text := s.text(); !strings.HasPrefix(text, "stays\n") || strings.Count(text, "\n") != 3 {
		t.Errorf("after the window changed:\n%s", text)
	}
	term.Close()
	want(t, s, "stays")
}

// The seconds go on without events.
func TestTerminalTicks(t *testing.T) {
	s, term := newScreen(t, 80, Look{})
	term.Sink(Event{Step: "wait", State: Started, At: time.Now()})
	before := s.text()
	for end := time.Now().Add(10 * time.Second); s.text() == before; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still %q", before)
		}
	}
	term.Close()
}
