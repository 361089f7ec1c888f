package task

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"joist/hypervisor/server"
	"joist/hypervisor/task"
)

func TestCalls(t *testing.T) {
	m, err := task.New(task.Options{Node: "n1", Dir: t.TempDir(), Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Recover(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	defer m.Close(context.Background())
	u, err := m.Start(task.Spec{Type: "qmstart", ID: "100", User: "joe@pve!tok"}, func(ctx context.Context, l task.Log) error {
		<-ctx.Done()
		return ctx.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	calls := map[string]server.Handler{}
	for _, r := range Routes("n1", m) {
		calls[r.Verb+" "+r.Path] = r.Do
	}
	call := func(who server.Identity, name string, p server.Values) (any, error) {
		r := &server.Request{Params: p, Who: who, May: func(_, priv string) bool { return who.User == "root@pam" }}
		return calls[name](t.Context(), r)
	}
	const path = "/nodes/{node}/tasks"
	owner, same, root := server.Identity{User: "joe@pve"}, server.Identity{User: "joe@pve", Token: "tok"}, server.Identity{User: "root@pam"}
	others := []server.Identity{{User: "ann@pve"}, {User: "joe@pve", Token: "other"}}
	id := server.Values{"upid": u.String()}
	for _, who := range []server.Identity{owner, same, root} {
		v, err := call(who, "GET "+path+"/{upid}/status", id)
		if err != nil {
			t.Fatal(who, err)
		}
		row := v.(map[string]any)
		if _, early := row["exitstatus"]; early || row["status"] != "running" || row["user"] != "joe@pve" || row["tokenid"] != "tok" {
			t.Errorf("%v", row)
		}
		if v, err := call(who, "GET "+path, server.Values{"source": "active"}); err != nil || len(v.([]map[string]any)) != 1 {
			t.Errorf("%v lists %v %v", who, v, err)
		}
	}
	for _, who := range others {
		var denied *server.Error
		if _, err := call(who, "DELETE "+path+"/{upid}", id); !errors.As(err, &denied) || denied.Status != 403 {
			t.Errorf("%v stops: %v", who, err)
		}
		if v, _ := call(who, "GET "+path, server.Values{"source": "all"}); len(v.([]map[string]any)) != 0 {
			t.Errorf("%v lists %v", who, v)
		}
	}
	if v, err := call(root, "GET "+path+"/{upid}/log", id); err != nil || v.([]map[string]any)[0]["t"] != "no content" {
		t.Errorf("%v %v", v, err)
	}
	for _, bad := range []string{"x", "UPID:n1:00000009:00000009:00000009:x::root@pam:"} {
		var e *server.Error
		if _, err := call(root, "GET "+path+"/{upid}/status", server.Values{"upid": bad}); !errors.As(err, &e) || e.Params["upid"] == "" {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if v, err := call(same, "DELETE "+path+"/{upid}", id); v != nil || err != nil {
		t.Errorf("%v %v", v, err)
	}
	for range 500 {
		if v, _ := call(root, "GET "+path+"/{upid}/status", id); v.(map[string]any)["exitstatus"] == "received interrupt" {
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
	t.Error("task does not end")
}
