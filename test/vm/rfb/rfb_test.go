package rfb

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// server plays one session: what it says and how many bytes it expects.
func server(t *testing.T, steps ...any) net.Conn {
	t.Helper()
	client, srv := net.Pipe()
	t.Cleanup(func() { client.Close(); srv.Close() })
	go func() {
		defer srv.Close()
		for _, s := range steps {
			switch s := s.(type) {
			case string:
				io.WriteString(srv, s)
			case []byte:
				srv.Write(s)
			case int:
				if _, err := io.ReadFull(srv, make([]byte, s)); err != nil {
					return
				}
			}
		}
	}()
	return client
}

func pixels(n int, v byte) []byte {
	return []byte(strings.Repeat(string([]byte{v, v + 1, v + 2, 0}), n))
}

func rect(x, y, w, h uint16, enc int32, data []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, x)
	for _, v := range []uint16{y, w, h} {
		b = binary.BigEndian.AppendUint16(b, v)
	}
	return append(binary.BigEndian.AppendUint32(b, uint32(enc)), data...)
}

const hello = "RFB 003.008\n"

// initMessage is ServerInit for a screen of 2 × 2 called "x".
var initMessage = append(append([]byte{0, 2, 0, 2}, make([]byte, 16)...), 0, 0, 0, 1, 'x')

func TestScreen(t *testing.T) {
	conn := server(t, hello, 12, []byte{2, 16, secNone}, 1, []byte{0, 0, 0, 0}, 1, initMessage, 32,
		10, []byte{msgBell}, []byte{msgCutText, 0, 0, 0, 0, 0, 0, 2, 'h', 'i'},
		append([]byte{msgUpdate, 0, 0, 1}, rect(0, 0, 3, 1, encDesktopSize, nil)...),
		10, append([]byte{msgUpdate, 0, 0, 2}, append(rect(0, 0, 2, 1, encRaw, pixels(2, 10)), rect(2, 0, 1, 1, encRaw, pixels(1, 20))...)...),
	)
	c, err := New(conn, "")
	if err != nil || c.Name != "x" {
		t.Fatalf("%v", err)
	}
	img, err := c.Screen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if img.Rect.Dx() != 3 || img.RGBAAt(2, 0).B != 22 || img.RGBAAt(0, 0).A != 255 || Colours(img) != 2 {
		t.Errorf("%v %v", img.Rect, img.Pix)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Screen(ctx); err == nil {
		t.Error("a silent server gave a screen")
	}
}

func TestRefusals(t *testing.T) {
	for name, steps := range map[string][]any{
		"old version":     {"RFB 003.003\n", 12},
		"no security":     {hello, 12, []byte{0, 0, 0, 0, 4}, "full"},
		"unknown type":    {hello, 12, []byte{1, 19}},
		"wrong password":  {hello, 12, []byte{1, secVNC}, 1, make([]byte, 16), 16, []byte{0, 0, 0, 1, 0, 0, 0, 2}, "no"},
		"ends in between": {hello, 12, []byte{1, secNone}, 1},
		"huge name":       {hello, 12, []byte{1, secNone}, 1, []byte{0, 0, 0, 0}, 1, append(make([]byte, 20), 255, 255, 255, 255)},
	} {
		if _, err := New(server(t, steps...), "secret"); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzUpdate(f *testing.F) {
	f.Add(append([]byte{msgUpdate, 0, 0, 1}, rect(0, 0, 2, 1, encRaw, pixels(2, 10))...))
	f.Fuzz(func(t *testing.T, b []byte) {
		conn := server(t, hello, 12, []byte{1, secNone}, 1, []byte{0, 0, 0, 0}, 1, initMessage, 32, b)
		c, err := New(conn, "")
		if err != nil {
			t.Fatal(err)
		}
		c.update()
	})
}
