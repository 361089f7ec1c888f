package stage1

import (
	"strings"
	"testing"
	"time"

	"joist/system/cmdline"
)

// A node that nobody looks at must restart, whatever its line sends; a person
// who chose the rescue entry is given time.
func TestOffer(t *testing.T) {
	for mode, want := range map[cmdline.Mode]struct {
		ends  bool
		wait  time.Duration
		words string
	}{
		cmdline.Node: {true, 30 * time.Second, "within 30 s"}, cmdline.Install: {false, time.Minute, "within 60 s"},
		cmdline.Rescue: {false, 0, "leaving it restarts"}, cmdline.Live: {false, 0, "leaving it restarts"}, "": {false, 0, "Enter"},
	} {
		o := offerIn(mode)
		if o.wait != want.wait || o.idle > 0 != want.ends || !strings.Contains(o.text, want.words) {
			t.Errorf("%s: got %+v", mode, o)
		}
	}
}
