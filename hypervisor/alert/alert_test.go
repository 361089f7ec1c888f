package alert

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"joist/api/node"
)

func TestBoard(t *testing.T) {
	now := time.Unix(100, 0)
	b := &Board{File: filepath.Join(t.TempDir(), "alerts.json"), Now: func() time.Time { return now }}
	set := func(source string, list ...node.Alert) {
		t.Helper()
		if err := b.Set(source, list); err != nil {
			t.Fatal(err)
		}
	}
	set("disks", node.Alert{Code: "a", Level: Warning, Path: "sda"})
	now = time.Unix(200, 0)
	set("disks", node.Alert{Code: "a", Level: Warning, Path: "sda", Text: "new words"}, node.Alert{Code: "a", Level: Error, Path: "sdb"})
	set("hook", node.Alert{Code: "h", Level: Error})
	want := []node.Alert{{Code: "a", Level: Error, Path: "sdb", Since: 200}, {Code: "h", Level: Error, Since: 200},
		{Code: "a", Level: Warning, Path: "sda", Text: "new words", Since: 100}}
	if d := cmp.Diff(want, b.List()); d != "" {
		t.Error(d)
	}
	var file []node.Alert
	text, err := os.ReadFile(b.File)
	if err == nil {
		err = json.Unmarshal(text, &file)
	}
	if d := cmp.Diff(want, file); err != nil || d != "" {
		t.Error(err, d)
	}
	before, err := os.Stat(b.File)
	if err != nil {
		t.Fatal(err)
	}
	set("hook", node.Alert{Code: "h", Level: Error})
	if after, err := os.Stat(b.File); err != nil || !os.SameFile(before, after) {
		t.Errorf("the file was written without need (%v)", err)
	}
	set("disks")
	set("hook")
	if list := b.List(); list == nil || len(list) > 0 {
		t.Errorf("%v", list)
	}
}
