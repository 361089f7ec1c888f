package main

import (
	"bufio"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-crypt/x/yescrypt"

	"joist/api/node"
	"joist/image/boot"
	"joist/installer/apply"
)

func TestAskPassword(t *testing.T) {
	for in, want := range map[string]string{
		"long enough\nlong enough\n": "",
		"short\nshort\n":             "fewer than 8",
		"long enough\nlong enougH\n": "differ",
		"long enough\n":              "EOF",
		"":                           "EOF",
	} {
		var said strings.Builder
		got, err := askPassword(&console{in: bufio.NewReader(strings.NewReader(in)), out: &said})
		switch {
		case want == "" && (err != nil || got != "long enough"):
			t.Errorf("%q: %q %v", in, got, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want) || got != ""):
			t.Errorf("%q: %q %v", in, got, err)
		}
		if strings.Contains(said.String(), "enough") {
			t.Errorf("the password was shown: %q", said.String())
		}
	}
}

// TestWriteHash: the hash is the new password's, and only a volume of ours gets
// one.
func TestWriteHash(t *testing.T) {
	state := t.TempDir()
	hash, err := apply.HashPassword("long enough")
	if err != nil {
		t.Fatal(err)
	}
	if err := writeHash(state, hash); err == nil {
		t.Error("a volume without a node's folder was written to")
	}
	name := filepath.Join(state, strings.TrimPrefix(node.ShadowFile, "/var"))
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, []byte("old\n"), 0o600), writeHash(state, hash)); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	again, err := yescrypt.Hash([]byte("long enough"), b[:len(b)-1])
	if err != nil || string(again)+"\n" != string(b) {
		t.Errorf("%q is not the password's hash (%v)", b, err)
	}
	if st, err := os.Stat(name); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st, err)
	}
}

func TestPrefer(t *testing.T) {
	good, none := boot.SlotState{OK: true}, boot.SlotState{}
	for _, c := range []struct {
		before boot.State
		x      boot.Slot
		want   boot.Choice
	}{
		{boot.State{First: boot.A, A: good, B: good}, boot.B, boot.Choice{Slot: boot.B}},
		{boot.State{First: boot.A, A: good, B: none}, boot.B, boot.Choice{Slot: boot.B, Trial: true}},
		{boot.State{First: boot.A, A: good, B: boot.SlotState{Tries: 1}}, boot.B, boot.Choice{Slot: boot.B, Trial: true}},
		{boot.State{First: boot.B, A: good, B: none}, boot.A, boot.Choice{Slot: boot.A}},
	} {
		after := prefer(c.before, c.x)
		if got := boot.Choose(after); got != c.want || after.Generation != c.before.Generation+1 {
			t.Errorf("%+v, %s: %+v", c.before, c.x, after)
		}
	}
}
