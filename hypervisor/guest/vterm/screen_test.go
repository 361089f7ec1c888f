package vterm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// at is a screen of that size after some output.
func at(cols, rows int, out string) *Screen {
	s := New(cols, rows)
	s.Write([]byte(out))
	return s
}

func TestFunctions(t *testing.T) {
	for _, c := range []struct{ name, out, want string }{
		{"lines", "one\r\ntwo\nthree", "one\ntwo\n   three\n"},
		{"wrap", "abcdefghijK", "abcdefghij\nK\n\n"},
		{"wrap waits", "abcdefghij\rX", "Xbcdefghij\n\n\n"},
		{"no wrap", "\x1b[?7labcdefghijKL", "abcdefghiL\n\n\n"},
		{"scroll", "1\r\n2\r\n3\r\n4", "2\n3\n4\n"},
		{"reverse scroll", "1\r\n2\x1b[H\x1bM0", "0\n1\n2\n"},
		{"region", "\x1b[1;2r1\r\n2\r\n3\x1b[3;1Hx", "2\n3\nx\n"},
		{"region is kept by lines", "1\r\n2\r\n3\x1b[2;3r\x1b[2H\x1b[Mx", "1\nx\n\n"},
		{"insert line", "1\r\n2\r\n3\x1b[2H\x1b[L", "1\n\n2\n"},
		{"position", "\x1b[2;3Hx\x1b[Ay\x1b[5Dz", "z  y\n  x\n\n"},
		{"position far away", "\x1b[99;99Hx", "\n\n         x\n"},
		{"erase display", "aaa\r\nbbb\r\nccc\x1b[2;2H\x1b[J", "aaa\nb\n\n"},
		{"erase above", "aaa\r\nbbb\x1b[2;2H\x1b[1J", "\n  b\n\n"},
		{"erase line", "abcdef\x1b[3G\x1b[K", "ab\n\n\n"},
		{"erase characters", "abcdef\x1b[2G\x1b[2X", "a  def\n\n\n"},
		{"delete characters", "abcdef\x1b[2G\x1b[2P", "adef\n\n\n"},
		{"insert characters", "abcdef\x1b[2G\x1b[2@", "a  bcdef\n\n\n"},
		{"insert mode", "abc\r\x1b[4hX\x1b[4lY", "XYbc\n\n\n"},
		{"tabs", "a\tb", "a       b\n\n\n"},
		{"tab set", "\x1b[3g\x1b[4G\x1bH\r\tx", "   x\n\n\n"},
		{"backspace", "ab\b\bc", "cb\n\n\n"},
		{"save", "ab\x1b7cd\x1b8X", "abXd\n\n\n"},
		{"alternate", "main\x1b[?1049halt\x1b[?1049l!", "main!\n\n\n"},
		{"alternate shows", "main\x1b[?1049h\x1b[Halt", "alt\n\n\n"},
		{"title", "\x1b]0;title\aa\x1b]2;x\x1b\\b\x1bP1$q\x1b\\c", "abc\n\n\n"},
		{"drawing", "\x1b(0lqk\x1b(Bq\x0eq", "┌─┐qq\n\n\n"},
		{"shift", "\x1b)0\x0eq\x0fq", "─q\n\n\n"},
		{"utf-8", "äß€", "äß€\n\n\n"},
		{"broken utf-8", "a\xc3(\xff\xe2\x82b", "a�(��b\n\n\n"},
		{"wide", "日本x", "日本x\n\n\n"},
		{"wide at the edge", "abcdefghi日", "abcdefghi\n日\n\n"},
		{"marks", "e\u0301!", "e!\n\n\n"},
		{"repeat", "ab\x1b[3b", "abbbb\n\n\n"},
		{"origin", "\x1b[2;3r\x1b[?6h\x1b[1;1Hx\x1b[9;1Hy", "\nx\ny\n"},
		{"alignment", "\x1b#8", "EEEEEEEEEE\nEEEEEEEEEE\nEEEEEEEEEE\n"},
		{"reset", "abc\x1b[31m\x1bcx", "x\n\n\n"},
		{"control within a function", "a\x1b[2\bC.", "a .\n\n\n"},
		{"cancelled", "a\x1b[2\x18Jb", "aJb\n\n\n"},
		{"unknown", "\x1b[?2004h\x1b[>4;1m\x1b[1 q\x1b[12t\x1b=a", "a\n\n\n"},
	} {
		if got := at(10, 3, c.out).String(); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestStyle(t *testing.T) {
	for out, want := range map[string]Cell{
		"\x1b[1;31;42m":              {FG: Indexed(1), BG: Indexed(2), Attr: Bold},
		"\x1b[1;4;7m\x1b[22;24m":     {Attr: Reverse},
		"\x1b[95;104m":               {FG: Indexed(13), BG: Indexed(12)},
		"\x1b[38;5;200m":             {FG: Indexed(200)},
		"\x1b[48;2;1;2;3;1m":         {BG: RGB(1, 2, 3), Attr: Bold},
		"\x1b[38:2::1:2:3m":          {FG: RGB(1, 2, 3)},
		"\x1b[38:2:1:2:3;4m":         {FG: RGB(1, 2, 3), Attr: Underline},
		"\x1b[38:5:9;4:3m":           {FG: Indexed(9), Attr: Underline},
		"\x1b[4m\x1b[4:0m":           {},
		"\x1b[31;42m\x1b[39;49m":     {},
		"\x1b[31m\x1b[m":             {},
		"\x1b[38;5m\x1b[38m\x1b[;1m": {Attr: Bold},
		"\x1b[?5h":                   {Attr: Reverse},
	} {
		want.Rune = 'x'
		if got := at(4, 2, out+"x").Cell(0, 0); got != want {
			t.Errorf("%q: %+v, want %+v", out, got, want)
		}
	}
	if c := at(4, 2, "\x1b[41m\x1b[K").Cell(3, 0); c.BG != Indexed(1) {
		t.Errorf("erased with %+v", c)
	}
}

func TestAnswers(t *testing.T) {
	for out, want := range map[string]string{
		"ab\x1b[6n": "\x1b[1;3R", "\x1b[5n": "\x1b[0n", "\x1b[c\x1bZ": "\x1b[?6c\x1b[?6c", "\x1b[>c": "\x1b[>0;0;0c", "x": "",
	} {
		if got := string(at(10, 3, out).Answers()); got != want {
			t.Errorf("%q: %q, want %q", out, got, want)
		}
	}
	s := at(10, 3, strings.Repeat("\x1b[6n", 10000)+"\a\a\x1b[?1h\x1b[?25l")
	if _, _, shown := s.Cursor(); len(s.Answers()) > maxAnswers || s.Bells() != 2 || s.Bells() != 0 || !s.AppKeys() || shown {
		t.Error("answers, bells or modes")
	}
}

func TestResize(t *testing.T) {
	s := at(10, 3, "1\r\n2\r\n3x")
	s.Resize(20, 2)
	s.Write([]byte("y\tz"))
	if got := s.String(); got != "2\n3xy     z\n" {
		t.Errorf("%q", got)
	}
	s.Resize(1<<30, -1)
	if c, r := s.Size(); c != MaxSide || r != 2 {
		t.Errorf("%d × %d", c, r)
	}
}

// TestGolden plays what programs wrote to a terminal of 80 × 24.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.in")
	if err != nil || len(files) == 0 {
		t.Fatal("no examples", err)
	}
	for _, name := range files {
		in, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		golden := strings.TrimSuffix(name, ".in") + ".golden"
		got := at(80, 24, string(in)).String()
		if os.Getenv("UPDATE_GOLDEN") != "" {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, want)
		}
	}
}

func FuzzWrite(f *testing.F) {
	f.Add([]byte("a\x1b[2;3r\x1b[?1049h\x1b[31;38:5:1m日\x1b[9999999999L\x1b]x\a\x1b[4h\xc3"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := New(7, 4)
		s.Write(b)
		s.Resize(5, 9)
		s.Write(b)
		if x, y, _ := s.Cursor(); x < 0 || y < 0 || x > 4 || y > 8 {
			t.Errorf("cursor at %d, %d", x, y)
		}
		if strings.Count(s.String(), "\n") != 9 || len(s.Answers()) > maxAnswers {
			t.Error("size")
		}
	})
}
