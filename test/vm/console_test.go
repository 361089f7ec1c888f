package vm

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"regexp"
	"testing"
	"time"
)

func TestConsole(t *testing.T) {
	guest, host := net.Pipe()
	var log bytes.Buffer
	c := newConsole("serial0", &log)
	go c.attach(host)
	go func() {
		for _, s := range []string{"\x1b[2J\x1b[1;1HWel", "come\r\n\x1b", "[32mlogin: "} {
			io.WriteString(guest, s)
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if got, err := c.WaitFor(ctx, regexp.MustCompile(`(Wel\w+)\n`)); err != nil || got[1] != "Welcome" {
		t.Fatalf("%q, %v", got, err)
	}
	if _, err := c.WaitFor(ctx, regexp.MustCompile(`login:`)); err != nil {
		t.Fatal(err)
	}
	short, cancel2 := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel2()
	if _, err := c.WaitFor(short, regexp.MustCompile(`Welcome`)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a text before the mark was found again: %v", err)
	}
	go c.Send("root\n")
	buf := make([]byte, 5)
	if _, err := io.ReadFull(guest, buf); err != nil || string(buf) != "root\n" {
		t.Errorf("sent %q, %v", buf, err)
	}
	guest.Close()
	if _, err := c.WaitFor(ctx, regexp.MustCompile(`never`)); !errors.Is(err, ErrEnded) {
		t.Errorf("after the end: %v", err)
	}
}

func TestStripper(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"a\x1b[1;31mb\x1b[0mc", "abc"},
		{"a\x1bcb\r\n", "ab\n"},
		{"\x1b[?25l\x1b[3;1H x", " x"},
		{"a\x1b]0;title\ab\x1b]3008;start=1\x1b\\c\x1b(Bd", "abcd"},
	} {
		var s stripper
		var got []byte
		for _, b := range []byte(c.in) { // byte by byte: state outlives a read
			got = s.append(got, []byte{b})
		}
		if string(got) != c.want {
			t.Errorf("%q: %q, want %q", c.in, got, c.want)
		}
	}
}
