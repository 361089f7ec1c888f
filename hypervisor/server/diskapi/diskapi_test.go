package diskapi

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"joist/api/node"
	"joist/hypervisor/alert"
	"joist/hypervisor/disks"
	"joist/hypervisor/server"
	"joist/internal/finding"
)

// machine has two disks and runs no installed system.
type machine struct{}

func (machine) Drives(context.Context) ([]disks.Drive, error) {
	failing := true
	return []disks.Drive{
		{Name: "sda", Model: "M", Serial: "S", WWN: "W", Bus: "ata", Rotational: true, Size: 7, Sector: 512, Holds: "ext4", DataID: "00aa", Failing: &failing, Wear: 3},
		{Name: "nvme0n1", Bus: "nvme", Size: 8, Sector: 4096},
	}, nil
}

func (machine) Fit(context.Context, string, string) (finding.List, error) { return nil, nil }

func TestCalls(t *testing.T) {
	board := &alert.Board{File: filepath.Join(t.TempDir(), "alerts"), Now: func() time.Time { return time.Unix(5, 0) }}
	if err := board.Set("x", []node.Alert{{Code: "c", Level: alert.Error, Text: "t"}}); err != nil {
		t.Fatal(err)
	}
	a := &API{Disks: &disks.Service{Machine: machine{}, Board: board}, Board: board,
		Check: func(context.Context) (any, error) { return map[string]string{"result": "fit"}, nil }}
	calls := map[string]server.Handler{}
	for _, r := range a.Routes() {
		calls[strings.TrimPrefix(r.Path, "/nodes/{node}/")] = r.Do
	}
	sda := `{"data-id":"00aa","devpath":"/dev/sda","gpt":0,"health":"FAILED","model":"M","osdid":-1,"osdid-list":null,"sector":512,"serial":"S","size":7,"type":"hdd","used":"ext4","vendor":"","wearout":97,"wwn":"W"}`
	nvme := `{"devpath":"/dev/nvme0n1","gpt":0,"health":"UNKNOWN","model":"","osdid":-1,"osdid-list":null,"sector":4096,"serial":"","size":8,"type":"nvme","vendor":"","wwn":""}`
	exchange := server.Values{"old": "missing", "new": "sda"}
	for _, c := range []struct {
		path, want string
		p          server.Values
	}{
		{"alerts", `[{"code":"c","level":"error","text":"t","since":5}]`, nil},
		{"check", `{"result":"fit"}`, nil},
		{"disks/list", "[" + sda + "," + nvme + "]", nil},
		{"disks/list", "[" + nvme + "]", server.Values{"type": "unused"}},
		{"disks/preview", `{"findings":[{"level":"error","code":"replace-no-system","text":"this machine runs no installed system","hint":"run it on an installed node"}],"possible":0}`, exchange},
	} {
		v, err := calls[c.path](t.Context(), &server.Request{Params: c.p})
		if err != nil {
			t.Errorf("%s: %v", c.path, err)
			continue
		}
		b, err := json.Marshal(v)
		if d := cmp.Diff(c.want, string(b)); err != nil || d != "" {
			t.Errorf("%s: %v\n%s", c.path, err, d)
		}
	}
	_, err := calls["disks/replace"](t.Context(), &server.Request{Params: exchange})
	var e *server.Error
	if !errors.As(err, &e) || e.Status != 400 || !strings.Contains(e.Text, "no installed system (run it") {
		t.Errorf("%v", err)
	}
}
