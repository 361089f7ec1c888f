package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDocs parses every command line of ours in the documentation and in the
// help texts' examples: commands, flags and the number of arguments are right.
func TestDocs(t *testing.T) {
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	lines := 0
	for _, name := range append(files, "../../README.md") {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for i, block := range strings.Split(string(b), "\n```") {
			if i%2 == 1 {
				lines += checkCommands(t, filepath.Base(name), block)
			}
		}
	}
	c := cli{in: strings.NewReader(""), out: io.Discard, err: io.Discard, env: func(string) string { return "" }}
	all := c.root().Commands()
	for len(all) > 0 {
		lines += checkCommands(t, all[0].CommandPath()+" --help", all[0].Example)
		all = append(all[1:], all[0].Commands()...)
	}
	if lines < 30 {
		t.Errorf("only %d command lines were found", lines)
	}
}

func checkCommands(t *testing.T, where, text string) (found int) {
	t.Helper()
	text = strings.ReplaceAll(text, "\\\n", " ")
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(strings.TrimSpace(line), " #")
		for cmd := range strings.SplitSeq(line, "&&") {
			f := strings.Fields(strings.TrimPrefix(strings.TrimSpace(cmd), "build/bin/"))
			if len(f) < 2 || f[0] != "joist" {
				continue
			}
			found++
			c := cli{in: strings.NewReader(""), out: io.Discard, err: io.Discard, env: func(string) string { return "" }}
			x, rest, err := c.root().Find(f[1:])
			if err == nil {
				if i := strings.Index(strings.Join(rest, "\x00"), "<"); i >= 0 {
					rest = strings.Split(strings.Join(rest, "\x00")[:i], "\x00") // "- < answer.toml"
					rest = rest[:len(rest)-1]
				}
				err = x.ParseFlags(rest)
			}
			if err == nil && x.HasSubCommands() && x.Flags().NFlag() == 0 {
				t.Errorf("%s: %q names no command", where, line)
			}
			if err == nil && !x.Flags().Changed("help") {
				err = x.ValidateArgs(x.Flags().Args())
			}
			if err != nil {
				t.Errorf("%s: %q: %v", where, line, err)
			}
		}
	}
	return found
}
