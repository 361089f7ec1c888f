package fetch

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// want is a file and a getter that does not wait long.
func want(t *testing.T, content []byte, h http.HandlerFunc) (*Getter, File, *[]string) {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	sum := sha256.Sum256(content)
	var mu sync.Mutex
	var said []string
	g := New(func(f string, a ...any) {
		mu.Lock()
		defer mu.Unlock()
		said = append(said, fmt.Sprintf(f, a...))
	})
	g.Pause, g.Tries, g.Stall = time.Millisecond, 3, 200*time.Millisecond
	return g, File{"image", s.URL + "/image", filepath.Join(t.TempDir(), "a", "image"), int64(len(content)), hex.EncodeToString(sum[:])}, &said
}

func content() []byte { return bytes.Repeat([]byte("joist"), 200_000) }

// Cut at every tenth, the file arrives whole, and no byte twice.
func TestResumes(t *testing.T) {
	c := content()
	var sent int64
	g, f, said := want(t, c, func(w http.ResponseWriter, r *http.Request) {
		var from int
		if h := r.Header.Get("Range"); h != "" {
			if _, err := fmt.Sscanf(h, "bytes=%d-", &from); err != nil {
				t.Errorf("range %q", h)
			}
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(c)-1, len(c)))
			w.Header().Set("Content-Length", fmt.Sprint(len(c)-from))
			w.WriteHeader(http.StatusPartialContent)
		} else {
			w.Header().Set("Content-Length", fmt.Sprint(len(c)))
		}
		n, _ := w.Write(c[from:min(from+len(c)/10, len(c))])
		sent += int64(n)
	})
	if err := g.Get(t.Context(), f); err != nil {
		t.Fatalf("%v\n%s", err, strings.Join(*said, "\n"))
	}
	got, err := os.ReadFile(f.To)
	if err != nil || !bytes.Equal(got, c) || sent != int64(len(c)) {
		t.Errorf("got %d bytes, %d sent, %v", len(got), sent, err)
	}
}

// A server without ranges begins again.
func TestBeginsAgain(t *testing.T) {
	c, first := content(), true
	g, f, _ := want(t, c, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(c)))
		if first {
			first = false
			w.Write(c[:1000])
			return
		}
		w.Write(c)
	})
	if err := g.Get(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(f.To); !bytes.Equal(got, c) {
		t.Errorf("got %d bytes", len(got))
	}
}

func TestFails(t *testing.T) {
	c := content()
	flipped := bytes.Clone(c)
	flipped[77] ^= 1
	for name, tc := range map[string]struct {
		h     http.HandlerFunc
		other bool
		want  string
	}{
		"absent": {http.NotFound, false, "404"},
		"flipped byte": {func(w http.ResponseWriter, _ *http.Request) {
			w.Write(flipped)
		}, true, "SHA-256"},
		"another size": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(c)-1))
			w.Write(c[1:])
		}, true, "999999"},
		"endless": {func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i < 20; i++ {
				w.Write(c)
			}
		}, true, "more than"},
		"another part": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", "bytes 5-9/10")
			w.WriteHeader(http.StatusPartialContent)
		}, false, "another part"},
		"silent": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, false, "nothing came"},
	} {
		t.Run(name, func(t *testing.T) {
			g, f, said := want(t, c, tc.h)
			err := g.Get(t.Context(), f)
			if err == nil || !strings.Contains(err.Error(), tc.want) || errors.Is(err, ErrOther) != tc.other {
				t.Errorf("got %v", err)
			}
			if _, err := os.Stat(f.To); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("something is left: %v", err)
			}
			if n := len(*said); tc.other == (n > 0) {
				t.Errorf("said %q", *said)
			}
		})
	}
}
