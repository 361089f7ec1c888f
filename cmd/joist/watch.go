package main

import (
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"joist/internal/progress"
)

// watcher shows a long piece of work: bars on a terminal, lines elsewhere.
type watcher struct {
	out, err io.Writer
	bars     *progress.Terminal // nil for lines
}

func newWatcher(out, err io.Writer, env func(string) string) *watcher {
	w := &watcher{out: out, err: err}
	f, ok := out.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) || env("TERM") == "" || env("TERM") == "dumb" {
		return w
	}
	w.bars = progress.NewTerminal(out, func() int {
		if columns, _, err := term.GetSize(int(f.Fd())); err == nil && columns > 0 {
			return columns
		}
		return 80
	}, look(env))
	return w
}

// look is what the environment says of the terminal: the locale as setlocale(3)
// reads it, and no-color.org.
func look(env func(string) string) progress.Look {
	var locale string
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if locale = env(name); locale != "" {
			break
		}
	}
	locale = strings.ReplaceAll(strings.ToLower(locale), "-", "")
	// The console of Linux has few letters in its font, and no ticks.
	return progress.Look{Unicode: strings.Contains(locale, "utf8") && env("TERM") != "linux", Colour: env("NO_COLOR") == ""}
}

// sink is where events go.
func (w *watcher) sink() progress.Sink {
	if w.bars == nil {
		return progress.Lines(w.out)
	}
	return w.bars.Sink
}

// say lets f write to a person without being written over. What goes elsewhere,
// as standard error to a file, goes there.
func (w *watcher) say(f func(io.Writer)) {
	if e, ok := w.err.(*os.File); w.bars != nil && ok && term.IsTerminal(int(e.Fd())) {
		w.bars.Above(f)
		return
	}
	f(w.err)
}

// close ends the drawing.
func (w *watcher) close() {
	if w.bars != nil {
		w.bars.Close()
	}
}
