package e2e

import (
	"context"
	"fmt"
	"image"
	"image/png"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"joist/test/vm"
	"joist/test/vm/rfb"
)

// terminal is a shell that is typed into, on a guest's console or on a serial
// port.
type terminal struct {
	*vm.Console
	n int
}

var (
	atLogin  = regexp.MustCompile(`login: ?$`)
	atPass   = regexp.MustCompile(`(?i)password: ?$`)
	atPrompt = regexp.MustCompile(`[#$] ?$`)
	atEither = regexp.MustCompile(`login: ?$|[#$] ?$`)
)

// typeInto opens the text console of a guest and logs in as root.
func (g guestOf) typeInto(t testing.TB, rootPassword string) *terminal {
	t.Helper()
	ctx := within(t, consoleTime)
	conn, err := g.n.API.Term(ctx, g.path())
	if err != nil {
		t.Fatal(err)
	}
	dir, err := vm.LogDir(t)
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, fmt.Sprintf("console-%d.log", g.id)))
	if err != nil {
		t.Fatal(err)
	}
	s := &terminal{Console: vm.Attach(fmt.Sprintf("console of %d", g.id), conn, log)}
	t.Cleanup(func() { s.Close(); log.Close() })
	if err := s.login(ctx, rootPassword); err != nil {
		t.Fatal(err)
	}
	return s
}

// login presses Enter until somebody asks for a name, or a shell is there.
func (s *terminal) login(ctx context.Context, rootPassword string) error {
	for {
		if err := s.Send("\r"); err != nil {
			return err
		}
		try, cancel := context.WithTimeout(ctx, 20*time.Second)
		found, err := s.WaitFor(try, atEither)
		cancel()
		if ctx.Err() != nil {
			return err
		}
		if err != nil {
			continue
		}
		if !atLogin.MatchString(found[0]) {
			return nil
		}
		break
	}
	for _, step := range []struct {
		send string
		want *regexp.Regexp
	}{{"root\r", atPass}, {rootPassword + "\r", atPrompt}} {
		if err := s.Send(step.send); err != nil {
			return err
		}
		if _, err := s.WaitFor(ctx, step.want); err != nil {
			return err
		}
	}
	return nil
}

// try types a command and returns what it printed and its status. What is
// typed is echoed, so that the marks around the output are typed differently
// from how they are printed.
func (s *terminal) try(ctx context.Context, command string) (out, status string, err error) {
	s.n++
	typed := fmt.Sprintf("echo BE''GIN-%d; %s; echo EN''D-%d-$?\r", s.n, command, s.n)
	if err := s.Send(typed); err != nil {
		return "", "", err
	}
	found, err := s.WaitFor(ctx, regexp.MustCompile(fmt.Sprintf(`(?s)BEGIN-%d\n(.*?)END-%d-(\d+)`, s.n, s.n)))
	if err != nil {
		return "", "", err
	}
	return found[1], found[2], nil
}

// run is try for a command that must work.
func (s *terminal) run(t testing.TB, most time.Duration, command string) string {
	t.Helper()
	out, status, err := s.try(within(t, most), command)
	if err != nil {
		t.Fatal(err)
	}
	if status != "0" {
		t.Fatalf("%s: status %s\n%s", command, status, out)
	}
	return out
}

// quiet keeps the kernel's messages, of a disk that is pulled for instance, out of
// what is printed on a serial port.
func (s *terminal) quiet(t testing.TB) {
	t.Helper()
	s.run(t, time.Minute, "dmesg --console-level emerg")
}

// powerOff ends the rescue system of a machine. What was written is on the disks
// when it has switched off, not before.
func (s *terminal) powerOff(t testing.TB, m *vm.Machine) {
	t.Helper()
	if err := s.Send("poweroff\r"); err != nil {
		t.Fatal(err)
	}
	if err := m.Wait(within(t, 2*time.Minute)); err != nil {
		t.Fatal(err)
	}
}

// wantScreen looks at a machine's screen through the API until it shows at
// least so many colours, and keeps the picture.
func (g guestOf) wantScreen(t testing.TB, colours int, name string) *image.RGBA {
	t.Helper()
	ctx := within(t, consoleTime)
	conn, pw, err := g.n.API.VNC(ctx, g.path())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c, err := rfb.New(conn, pw)
	if err != nil {
		t.Fatal(err)
	}
	for {
		img, err := c.Screen(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if seen := rfb.Colours(img); seen >= colours {
			t.Logf("the screen of %d is %v in %d colours: %s", g.id, img.Rect.Size(), seen, savePicture(t, img, name))
			return img
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the screen of %d shows %d colours, want %d: %s", g.id, rfb.Colours(img), colours, savePicture(t, img, name))
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func savePicture(t testing.TB, img image.Image, name string) string {
	t.Helper()
	dir, err := vm.LogDir(t)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, name+".png")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := png.Encode(f, img); err != nil {
		t.Error(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	return path
}

// changed counts the pixels in which two pictures differ.
func changed(a, b *image.RGBA) int {
	if a.Rect != b.Rect {
		return b.Rect.Dx() * b.Rect.Dy()
	}
	n := 0
	for i := 0; i+4 <= len(a.Pix); i += 4 {
		if [4]byte(a.Pix[i:i+4]) != [4]byte(b.Pix[i:i+4]) {
			n++
		}
	}
	return n
}
