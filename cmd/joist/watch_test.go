package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"testing"

	"joist/internal/progress"
)

func TestLook(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		want progress.Look
	}{
		{map[string]string{"LANG": "de_AT.UTF-8", "TERM": "xterm"}, progress.Look{Unicode: true, Colour: true}},
		{map[string]string{"LANG": "C.utf8", "LC_ALL": "C", "TERM": "xterm"}, progress.Look{Colour: true}},
		{map[string]string{"LC_CTYPE": "C.utf8", "TERM": "linux", "NO_COLOR": "1"}, progress.Look{}},
		{nil, progress.Look{Colour: true}},
	} {
		if got := look(func(name string) string { return c.env[name] }); got != c.want {
			t.Errorf("%v: %+v", c.env, got)
		}
	}
}

// What is no terminal gets plain lines, and so does one that cannot move its
// cursor.
func TestWatcherLines(t *testing.T) {
	file, err := os.Create(t.TempDir() + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for what, out := range map[string]io.Writer{"a buffer": &bytes.Buffer{}, "a file": file} {
		var say bytes.Buffer
		w := newWatcher(out, &say, func(string) string { return "xterm" })
		if w.bars != nil {
			t.Errorf("bars are drawn in %s", what)
		}
		w.sink()(progress.Event{Step: "try", State: progress.Started})
		w.say(func(w io.Writer) { fmt.Fprint(w, "warning") })
		w.close()
		if say.String() != "warning" {
			t.Errorf("%s: said %q", what, say.String())
		}
	}
	if b, err := os.ReadFile(file.Name()); err != nil || string(b) != "[started]  try\n" {
		t.Errorf("%q, %v", b, err)
	}
}
