package boot

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"

	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

// states are all that a block can hold, the generation aside.
func states() []State {
	var one []SlotState
	for n := 0; n <= MaxTries; n++ {
		one = append(one, SlotState{Tries: n}, SlotState{OK: true, Tries: n})
	}
	var all []State
	for _, first := range []Slot{A, B} {
		for _, a := range one {
			for _, b := range one {
				all = append(all, State{First: first, A: a, B: b})
			}
		}
	}
	return all
}

func TestTransitions(t *testing.T) {
	good, gone, trial := SlotState{OK: true}, SlotState{}, SlotState{Tries: 2}
	for _, c := range []struct {
		name string
		s    State
		want Choice
	}{
		{"preferred is good", State{First: B, A: good, B: good}, Choice{Slot: B}},
		{"preferred is on trial", State{First: B, A: good, B: trial}, Choice{B, true}},
		{"preferred is exhausted", State{First: B, A: good, B: gone}, Choice{Slot: A}},
		{"other is on trial", State{First: A, A: gone, B: trial}, Choice{B, true}},
		{"nothing left", State{First: B, A: gone, B: gone}, Choice{Slot: B}},
		{"fresh installation", Fresh(), Choice{A, true}},
		{"empty block", DecodeState(&Env{}), Choice{Slot: A}},
	} {
		if got := Choose(c.s); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
	for _, s := range states() {
		c := Choose(s)
		next, told := CountDown(s, c.Slot)
		if told != c.Trial {
			t.Errorf("%+v: chosen with trial %v, counted with %v", s, c.Trial, told)
		}
		if told && next.Of(c.Slot).Tries != s.Of(c.Slot).Tries-1 || !told && next != s || next.Of(c.Slot.Other()) != s.Of(c.Slot.Other()) {
			t.Errorf("%+v became %+v", s, next)
		}
		for _, x := range []Slot{A, B} {
			if got := Choose(Prefer(MarkGood(s, x), x)); got != (Choice{Slot: x}) {
				t.Errorf("%+v: good and preferred %s is not chosen but %+v", s, x, got)
			}
			if got := Choose(Trial(s, x)); got != (Choice{x, true}) {
				t.Errorf("%+v: fresh %s is not tried but %+v", s, x, got)
			}
			if MarkGood(s, x).Generation != s.Generation+1 || Prefer(s, x).Generation != s.Generation+1 || Trial(s, x).Generation != s.Generation+1 {
				t.Error("the generation did not grow")
			}
		}
	}
}

// A slot that never becomes good is left for a good one after MaxTries starts.
func TestTrialEnds(t *testing.T) {
	s := Trial(State{First: A, A: SlotState{OK: true}}, B)
	var seen string
	for range MaxTries + 2 {
		c := Choose(s)
		s, _ = CountDown(s, c.Slot)
		seen += string(c.Slot)
	}
	if seen != "BBBAA" {
		t.Errorf("started %s", seen)
	}
}

func TestStateStored(t *testing.T) {
	for _, s := range states() {
		s.Generation = 18446744073709551615
		e := &Env{}
		e.Set("other", "stays")
		if err := s.Store(e); err != nil {
			t.Fatal(err)
		}
		if got := DecodeState(e); got != s || e.Get("other") != "stays" {
			t.Errorf("%+v became %+v", s, got)
		}
		if b, err := e.Encode(); err != nil || len(b) != EnvSize {
			t.Errorf("%+v does not fit: %v", s, err)
		}
	}
	e := &Env{}
	for _, v := range [][2]string{{"order", "B"}, {"A_try", "-1"}, {"B_try", "4"}, {"B_ok", "yes"}, {"generation", "x"}} {
		e.Set(v[0], v[1])
	}
	if got := DecodeState(e); got != (State{First: A}) {
		t.Errorf("nonsense became %+v", got)
	}
}

// The menu of an installed disk is run, not read: what GRUB's script language
// shares with the shell is interpreted as shell, GRUB's own commands are
// played by grub. Over every state the outcome must be that of the functions.
func TestMenuAgreesWithModel(t *testing.T) {
	text, err := DiskMenu(nil)
	if err != nil {
		t.Fatal(err)
	}
	prog := parseMenu(t, string(text))
	for _, s := range states() {
		g := run(t, prog, s, "")
		want := Choose(s)
		if g.vars["default"] != string(want.Slot) {
			t.Errorf("%+v: default %q, want %+v", s, g.vars["default"], want)
		}
		if got := strings.Join(g.entries, " "); got != "A B rescue-A rescue-B" {
			t.Errorf("entries are %q", got)
		}
		for _, x := range []Slot{A, B} {
			testEntry(t, prog, s, x)
		}
	}
}

// testEntry starts slot x by its menu entry: as it is, with a disk that cannot
// be written, and with a kernel or an initrd that cannot be read.
func testEntry(t *testing.T, prog *syntax.File, s State, x Slot) {
	t.Helper()
	started := func(x Slot, trial bool) string {
		line := fmt.Sprintf("linux /joist/%s/vmlinuz joist.mode=node joist.slot=%s more", x, x)
		if trial {
			line += " joist.trial=1 oops=panic panic=10"
		}
		return line + "|initrd /joist/" + string(x) + "/initrd"
	}
	entry := "entry_" + string(x)
	next, trial := CountDown(s, x)
	g := run(t, prog, s, entry)
	if got := DecodeState(g.saved); got != next {
		t.Errorf("%+v: starting %s saved %+v, want %+v", s, x, got, next)
	}
	if want := started(x, trial); g.booted != want {
		t.Errorf("%+v: %s starts with %q, want %q", s, x, g.booted, want)
	}

	want := started(x, trial)
	if trial && s.Of(x.Other()).OK {
		want = started(x.Other(), false)
	}
	if g := play(t, prog, s, entry, &grub{readOnly: true}); g.booted != want || DecodeState(g.saved) != s {
		t.Errorf("%+v: read-only, %s starts with %q, want %q", s, x, g.booted, want)
	}

	next, trial = CountDown(next, x.Other())
	for _, file := range []string{FileKernel, FileInitrd} {
		g := play(t, prog, s, entry, &grub{broken: PathSlotFile(x, file), missing: true})
		if want := started(x.Other(), trial); g.booted != want || DecodeState(g.saved) != next {
			t.Errorf("%+v: broken %s of %s: starts with %q, want %q", s, file, x, g.booted, want)
		}
	}

	g = play(t, prog, s, entry, &grub{broken: PathSlotFile(x, FileInitrd)})
	if !strings.HasSuffix(g.booted, "|reboot") || strings.Count(g.booted, "linux ") != 1 {
		t.Errorf("%+v: initrd of %s cannot be read: %q", s, x, g.booted)
	}

	if g := run(t, prog, s, "entry_rescue-"+string(x)); !strings.HasPrefix(g.booted, "linux /joist/"+string(x)+"/vmlinuz joist.mode=rescue") || DecodeState(g.saved) != s {
		t.Errorf("%+v: rescue of %s: %q", s, x, g.booted)
	}
}

var reEntry = regexp.MustCompile(`(?m)^( *)menuentry ".*" --id (\S+) \{$`)

// parseMenu turns menu entries into functions that are also announced; all
// else stays as GRUB reads it.
func parseMenu(t *testing.T, text string) *syntax.File {
	t.Helper()
	text = reEntry.ReplaceAllString(text, "${1}menuentry $2\n${1}function entry_$2 {")
	f, err := syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(strings.NewReader(text+"\n$entry\n"), "grub.cfg")
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// grub plays the commands that are GRUB's own.
type grub struct {
	vars     map[string]string
	saved    *Env
	readOnly bool
	broken   string // a file that cannot be read
	missing  bool   // for it is not there
	entries  []string
	booted   string
}

// call turns a GRUB command into one of the shell; ":" stands for done.
func (g *grub) call(_ context.Context, args []string) ([]string, error) {
	rest := args[1:]
	done := []string{":"}
	switch args[0] {
	case "set":
		name, value, _ := strings.Cut(rest[0], "=")
		g.vars[name] = value
		return []string{"eval", fmt.Sprintf("%s=%q", name, value)}, nil
	case "load_env":
		var out strings.Builder
		for _, name := range rest[2:] {
			fmt.Fprintf(&out, "%s=%q;", name, g.saved.Get(name))
		}
		return []string{"eval", out.String()}, nil
	case "save_env":
		if g.readOnly {
			return []string{"false"}, nil
		}
		for _, name := range rest[2:] {
			if err := g.saved.Set(name, g.vars[name]); err != nil {
				return nil, err
			}
		}
		return done, nil
	case "source":
		x := strings.TrimSuffix(strings.TrimPrefix(rest[0], "/joist/"), ".cfg")
		return []string{"eval", fmt.Sprintf("%s_title='Joist %s' %s_args='joist.slot=%s more'", x, x, x, x)}, nil
	case "menuentry":
		g.entries = append(g.entries, rest[0])
		return done, nil
	case "linux", "initrd":
		if rest[0] == g.broken {
			return []string{"false"}, nil
		}
		if args[0] == "initrd" {
			g.booted += "|" + strings.Join(args, " ")
			return done, nil
		}
		g.booted = strings.Join(args, " ")
		return done, nil
	case "reboot": // does not come back
		g.booted += "|reboot"
		return []string{"exit"}, nil
	case "sleep", "serial", "terminal_input", "terminal_output", "echo":
		return done, nil
	case "[":
		if i := slices.Index(rest, "-s"); i >= 0 {
			if missing := g.missing && rest[i+1] == g.broken; missing != (rest[0] == "!") {
				return []string{"false"}, nil
			}
			return done, nil
		}
	}
	return args, nil
}

func run(t *testing.T, prog *syntax.File, s State, entry string) *grub {
	t.Helper()
	return play(t, prog, s, entry, &grub{})
}

func play(t *testing.T, prog *syntax.File, s State, entry string, g *grub) *grub {
	t.Helper()
	g.vars, g.saved = map[string]string{}, &Env{}
	if err := s.Store(g.saved); err != nil {
		t.Fatal(err)
	}
	sh, err := interp.New(interp.StdIO(nil, io.Discard, io.Discard), interp.CallHandler(g.call))
	if err != nil {
		t.Fatal(err)
	}
	pre := fmt.Sprintf("prefix=/joist; grub_platform=pc; entry=%s", entry)
	head, err := syntax.NewParser().Parse(strings.NewReader(pre), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := sh.Run(t.Context(), head); err != nil {
		t.Fatal(err)
	}
	// The last status is an entry's own; a refusal is part of the outcome.
	if err := sh.Run(t.Context(), prog); err != nil && !strings.HasPrefix(err.Error(), "exit status") {
		t.Fatal(err)
	}
	return g
}
