package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"joist/image/boot"
	"joist/installer/plan"
	"joist/installer/probe"
	"joist/internal/finding"
)

// result is what one command line came to.
type result struct {
	status   int
	out, err string
}

func execute(t *testing.T, env map[string]string, stdin string, args ...string) result {
	t.Helper()
	var out, err bytes.Buffer
	c := cli{in: strings.NewReader(stdin), out: &out, err: &err, env: func(k string) string { return env[k] }}
	status := c.run(t.Context(), args)
	return result{status, out.String(), err.String()}
}

func (r result) check(t *testing.T, status int, out string, said ...string) {
	t.Helper()
	if r.status != status || r.out != out {
		t.Errorf("status %d, want %d; said %q; output\n%s\nwant\n%s", r.status, status, r.err, r.out, out)
	}
	for _, s := range said {
		if !strings.Contains(r.err, s) {
			t.Errorf("standard error lacks %q:\n%s", s, r.err)
		}
	}
}

func TestUsage(t *testing.T) {
	for line, said := range map[string]string{
		"buidl":                                `unknown command "buidl"; did you mean build?`,
		"build isoo":                           `did you mean iso?`,
		"build iso x":                          "`joist build --help`",
		"build iso netbot":                     `there is no artefact "netbot"; did you mean netboot?`,
		"build template arch":                  `no template "arch"`,
		"build netboot --answer a":             "--answer is for the ISO",
		"build update --answer-url https://a/": "--answer-url is for the ISO",
		"build iso --explain x":                "builds nothing",
		"--frob":                               "unknown flag: --frob",
		"api get":                              "requires at least 1 arg",
		"api get https://n1/ a=b":              "not a path",
		"api get /nodes limit":                 `"limit" is not key=value`,
		"api set /x a=1 a=2":                   `"a" is given twice`,
		"plan":                                 "both --answer and --facts",
		"plan --answer a --facts b --disks c":  "or --disks in place of --facts",
		"answer schema x":                      "unknown command",
		"answer validate":                      "accepts 1 arg",
		"api upload n1 local iso":              "accepts 4 arg",
		"api get /nodes --no-wait":             "unknown flag: --no-wait",
		"answer validate a --answer":           "unknown flag",
		"serve --address 203.0.113.1":          "--address 203.0.113.1 is no address of this machine",
		"serve a b":                            "accepts at most 1 arg",
	} {
		execute(t, nil, "", strings.Fields(line)...).check(t, exitUsage, "", said)
	}
	for _, line := range []string{"", "--help", "api", "api --help", "answer", "plan --help", "api console --help"} {
		if r := execute(t, nil, "", strings.Fields(line)...); r.status != exitOK || !strings.Contains(r.out, "Usage:") {
			t.Errorf("%q: %+v", line, r)
		}
	}
	if r := execute(t, nil, "", "version"); r.status != exitOK || !strings.HasPrefix(r.out, "joist ") {
		t.Errorf("%+v", r)
	}
}

const goodAnswer = `[global]
keyboard = "de"
country = "at"
timezone = "Europe/Vienna"
fqdn = "node1.example.com"
mailto = "admin@example.com"
root-password = "correct horse"
[network]
source = "from-dhcp"
[disk-setup]
filesystem = "ext4"
disk-list = ["vda"]
`

func TestAnswer(t *testing.T) {
	good := write(t, "answer.toml", goodAnswer)
	execute(t, nil, "", "answer", "validate", good).check(t, exitOK, good+": nothing stops an installation\n")
	execute(t, nil, goodAnswer, "answer", "validate", "--json", "-").check(t, exitOK, "[]\n")
	bad := strings.Replace(goodAnswer, "keyboard", "keybord", 1)
	execute(t, nil, bad, "answer", "validate", "-").check(t, exitFindings, "", "-:2:1: error: the key global.keybord is unknown", "cure: did you mean global.keyboard?")
	r := execute(t, nil, bad, "answer", "validate", "--json", "-")
	var found []struct{ Level, Code string }
	if err := json.Unmarshal([]byte(r.out), &found); err != nil || r.status != exitFindings || len(found) == 0 || !strings.Contains(r.out, "answer-unknown-key") {
		t.Errorf("%v %+v", err, r)
	}
	r = execute(t, nil, "", "answer", "explain", good)
	if r.status != exitOK || !strings.Contains(r.out, `root-password = "***"`) || strings.Contains(r.out, "correct horse") {
		t.Errorf("%+v", r)
	}
	execute(t, nil, bad, "answer", "explain", "-").check(t, exitFindings, "")
	execute(t, nil, "", "answer", "validate", good+".no").check(t, exitFailed, "", "read answer: open")
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPlanFiles(t *testing.T) {
	ans := write(t, "answer.toml", goodAnswer)
	b, err := json.Marshal(probe.Facts{})
	if err != nil {
		t.Fatal(err)
	}
	facts := write(t, "facts.json", string(b))
	execute(t, nil, "", "plan", "--answer", ans, "--facts", ans).check(t, exitFailed, "", "read facts")
	execute(t, nil, "", "plan", "--answer", ans, "--facts", facts, "--image", ans).check(t, exitFailed, "", "read image")
	execute(t, nil, "", "plan", "--answer", ans, "--facts", facts).check(t, exitFailed, "", "run joist build iso, or name one with --image")
	execute(t, nil, "x", "plan", "--answer", "-", "--facts", facts).check(t, exitFindings, "", "answer-syntax", "no-disk")
	disk := write(t, "a.img", "")
	execute(t, nil, "", "plan", "--answer", ans, "--disks", disk+".no").check(t, exitFailed, "", "read disk image")
	execute(t, nil, "", "plan", "--answer", ans, "--disks", disk).check(t, exitFailed, "", "is empty")
	if err := os.Truncate(disk, 20e9); err != nil {
		t.Fatal(err)
	}
	execute(t, nil, "", "plan", "--answer", ans, "--disks", disk+","+disk, "--image", ans).check(t, exitFailed, "", "read image")
}

func TestAnswerSchema(t *testing.T) {
	r := execute(t, nil, "", "answer", "schema")
	var schema struct{ Properties map[string]any }
	if err := json.Unmarshal([]byte(r.out), &schema); err != nil || r.status != exitOK || schema.Properties["disk-setup"] == nil {
		t.Errorf("%v %+v", err, r)
	}
}

func TestImageOn(t *testing.T) {
	h := strings.Repeat("0", 64)
	m := boot.Manifest{BuildID: "0011223344556677", Version: "0.1.0", Kernel: "6.12.0-amd64", VerityRoot: h, Built: time.Unix(1.7e9, 0),
		Files: map[string]boot.File{"vmlinuz": {Size: 1, SHA256: h}, "initrd": {Size: 2, SHA256: h}, "system.sqfs": {Size: 3, SHA256: h}}}
	text, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	dir := "joist/" + m.BuildID
	medium := fstest.MapFS{"joist/answer.toml": {}, dir + "/manifest.json": {Data: text},
		dir + "/boot/shimx64.efi": {Data: make([]byte, 7)}, dir + "/system.sqfs": {}}
	img, err := imageOn(medium)
	if err != nil || img.Manifest.BuildID != m.BuildID || len(img.Loaders) != 1 || img.Loaders[plan.LoaderShim] != 7 {
		t.Errorf("%+v %v", img, err)
	}
	for _, bad := range []fstest.MapFS{{}, {"joist/answer.toml": {}}, {dir + "/manifest.json": {Data: []byte("{}")}}} {
		if _, err := imageOn(bad); err == nil {
			t.Errorf("%v was read", bad)
		}
	}
}

const upid = "UPID:n1:00000001:00000002:65000000:qmstart:100:root@pam:"

// startNode serves what the tests call.
func startNode(t *testing.T) (env map[string]string, seen *[]string) {
	t.Helper()
	seen = new([]string)
	answers := map[string]string{
		"GET /nodes":                              `[{"node":"n1","maxmem":1024,"status":"online"},{"node":"n2","cpu":0.5,"status":"off\u001b[2J"}]`,
		"GET /nodes/n1/status":                    `{"uptime":12,"loadavg":["0.1","0.2"],"name":"n1"}`,
		"GET /version":                            `null`,
		"POST /nodes/n1/qemu/100/status/start":    `"` + upid + `"`,
		"GET /nodes/n1/tasks/" + upid + "/status": `{"status":"stopped","exitstatus":"OK"}`,
		"POST /nodes/n1/qemu/101/status/start":    `"` + strings.Replace(upid, "100", "101", 1) + `"`,
		"GET /nodes/n1/tasks/UPID:n1:00000001:00000002:65000000:qmstart:101:root@pam:/status": `{"status":"stopped","exitstatus":"no disk"}`,
		"GET /nodes/n1/tasks/UPID:n1:00000001:00000002:65000000:qmstart:101:root@pam:/log":    `[{"n":1,"t":"TASK ERROR: no disk"}]`,
		"GET /nodes/localhost/alerts":                          `[{"code":"data-degraded","level":"error","path":"/dev/md127","text":"the mirror lacks 1 of 2 disks","cure":"replace it","since":1}]`,
		"GET /nodes/localhost/firstboot":                       `{"begun":1,"steps":[{"name":"network","state":"waiting","detail":"for an address","time":1},{"name":"program","state":"waiting","time":1}]}`,
		"DELETE /nodes/localhost/firstboot":                    `null`,
		"GET /nodes/n2/alerts":                                 `[]`,
		"GET /nodes/localhost/check":                           `{"result":"fit","checks":[{"code":"no-nic","outcome":"ok"},{"code":"clock-skew","outcome":"unknown","found":["machine: chrony follows no time server"],"cure":"set it"},{"code":"memory-too-small","outcome":"warning","waived":true,"found":["machine: 1 GiB"],"cure":"add memory"}]}`,
		"GET /nodes/n2/check":                                  `{"result":"unfit","checks":[{"code":"no-nic","outcome":"error","found":["machine: none"],"cure":"attach one"}]}`,
		"POST /nodes/localhost/disks/preview":                  `{"possible":1,"findings":[{"level":"warning","code":"disk-usb","path":"/dev/sdc","text":"the disk is attached by USB"}]}`,
		"POST /nodes/n2/disks/preview":                         `{"possible":0,"findings":[{"level":"error","code":"replace-single","text":"the data are on one disk","hint":"back up"}]}`,
		"POST /nodes/localhost/disks/replace":                  `"` + upid + `"`,
		"POST /nodes/localhost/disks/repair":                   `"` + strings.Replace(upid, "100", "101", 1) + `"`,
		"GET /nodes/n1/tasks/" + upid + "/log":                 `[{"n":1,"t":"boot parts: copied"},{"n":2,"t":"TASK OK"}]`,
		"GET /nodes/localhost/crashes":                         `[{"id":"20261129T010203-0-panic","time":1764378123,"reason":"Panic","size":14}]`,
		"GET /nodes/n2/crashes/x":                              `"Panic#1 Part1\nline\u001b[2J\n"`,
		"DELETE /nodes/n2/crashes/x":                           `null`,
		"GET /nodes/localhost/support":                         `{"name":"joist-support-n1-20261129T010203.tar.gz","content":"aGVsbG8="}`,
		"GET /nodes/n2/support":                                `{"name":"../x","content":"aGVsbG8="}`,
		"PUT /nodes/n1/qemu/100/config":                        `null`,
		"DELETE /nodes/n1/storage/local/content/local:iso/a b": `null`,
		"POST /nodes/n1/storage/local/upload":                  `"` + upid + `"`,
	}
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := strings.TrimPrefix(r.URL.Path, "/api2/json")
		if path == "/access/ticket" {
			if r.FormValue("password") != "pw" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			fmt.Fprint(w, `{"data":{"username":"root@pam","ticket":"T","CSRFPreventionToken":"C"}}`)
			return
		}
		var body string
		if f, h, err := r.FormFile("filename"); err == nil {
			b, _ := io.ReadAll(f)
			body = fmt.Sprintf("%s %s %s", h.Filename, b, r.FormValue("checksum")[:8])
		} else if r.ParseForm() == nil {
			body = r.Form.Encode()
		}
		who := "ticket"
		if a := r.Header.Get("Authorization"); a != "" {
			who = a
		}
		*seen = append(*seen, strings.TrimSpace(fmt.Sprintf("%s %s %s %s", who, r.Method, path, body)))
		a, ok := answers[r.Method+" "+path]
		if !ok {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"data":null,"message":"Parameter verification failed.","errors":{"vmid":"bad"}}`)
			return
		}
		fmt.Fprintf(w, `{"data":%s}`, a)
	}))
	t.Cleanup(s.Close)
	return map[string]string{"JOIST_SERVER": s.URL, "JOIST_PASSWORD": "pw",
		"JOIST_FINGERPRINT": fmt.Sprintf("%x", sha256.Sum256(s.Certificate().Raw))}, seen
}

func TestAPI(t *testing.T) {
	env, seen := startNode(t)
	do := func(stdin string, args ...string) result {
		t.Helper()
		return execute(t, env, stdin, append([]string{"api"}, args...)...)
	}
	do("", "get", "/nodes").check(t, exitOK, "NODE  STATUS   CPU  MAXMEM\nn1    online        1024\nn2    off?[2J  0.5\n")
	do("", "get", "nodes", "--columns", "status,node").check(t, exitOK, "STATUS   NODE\nonline   n1\noff?[2J  n2\n")
	do("", "get", "/api2/json/nodes/n1/status").check(t, exitOK, "name     n1\nloadavg  [\"0.1\",\"0.2\"]\nuptime   12\n")
	do("", "get", "/version").check(t, exitOK, "")
	do("", "get", "/version", "--json").check(t, exitOK, "null\n")
	do("", "create", "/nodes/n1/qemu/100/status/start").check(t, exitOK, upid+"\n", "[started]  task qmstart 100", "[finished]")
	do("", "create", "/nodes/n1/qemu/101/status/start", "--no-wait").check(t, exitOK, strings.Replace(upid, "100", "101", 1)+"\n")
	do("", "create", "/nodes/n1/qemu/101/status/start").check(t, exitFailed, strings.Replace(upid, "100", "101", 1)+"\n", "TASK ERROR: no disk")
	*seen = nil
	do("two words\n", "set", "/nodes/n1/qemu/100/config", "description=@-", "name=a=b").check(t, exitOK, "")
	do("", "delete", "/nodes/n1/storage/local/content/local:iso/a b").check(t, exitOK, "")
	do("", "get", "/foo").check(t, exitFailed, "", "GET /foo: Parameter verification failed.; vmid: bad (400)")
	file := write(t, "x.iso", "content")
	do("", "upload", "n1", "local", "iso", file).check(t, exitOK, "local:iso/x.iso\n", "[finished] upload x.iso")
	do("", "upload", "n1", "local", "iso", filepath.Dir(file)).check(t, exitFailed, "", "is not a file")
	want := `ticket PUT /nodes/n1/qemu/100/config description=two+words&name=a%3Db
ticket DELETE /nodes/n1/storage/local/content/local:iso/a b
ticket GET /foo
ticket POST /nodes/n1/storage/local/upload x.iso content ed7002b4
ticket GET /nodes/n1/tasks/` + upid + `/status`
	if got := strings.Join(*seen, "\n"); got != want {
		t.Errorf("the node saw\n%s\nwant\n%s", got, want)
	}
}

func TestNodeCare(t *testing.T) {
	env, seen := startNode(t)
	do := func(args ...string) result {
		t.Helper()
		return execute(t, env, "", append([]string{"node"}, args...)...)
	}
	do("alerts").check(t, exitOK, "LEVEL  CODE           PATH        TEXT                           CURE\nerror  data-degraded  /dev/md127  the mirror lacks 1 of 2 disks  replace it\n")
	do("alerts", "--node", "n2").check(t, exitOK, "")
	do("first-boot").check(t, exitOK, "NAME     STATE    DETAIL\nnetwork  waiting  for an address\nprogram  waiting\n")
	do("first-boot", "--clear").check(t, exitOK, "")
	do("check").check(t, exitOK, "CHECK             OUTCOME           FOUND\nno-nic            ok                \nclock-skew        unknown           machine: chrony follows no time server\nmemory-too-small  warning (waived)  machine: 1 GiB\n                                    cure: add memory\n\nThis machine is fit.\n")
	if r := do("check", "--node", "n2", "--json"); r.status != exitFindings || !strings.Contains(r.out, `"unfit"`) {
		t.Errorf("%+v", r)
	}
	*seen = nil
	do("disk", "replace", "missing", "sdc", "--overwrite", "00aa").check(t, exitOK, "", "warning: the disk is attached by USB [disk-usb]", "boot parts: copied\nTASK OK")
	do("disk", "replace", "sda", "sdc", "--node", "n2").check(t, exitFindings, "", "the data are on one disk", "cure: back up")
	do("disk", "replace", "sda", "sdc", "--check").check(t, exitOK, "", "disk-usb")
	do("disk", "repair").check(t, exitFailed, "", "TASK ERROR: no disk")
	var posts []string
	for _, s := range *seen {
		if strings.Contains(s, "POST") {
			posts = append(posts, s)
		}
	}
	want := `ticket POST /nodes/localhost/disks/preview new=sdc&old=missing&overwrite=00aa
ticket POST /nodes/localhost/disks/replace new=sdc&old=missing&overwrite=00aa
ticket POST /nodes/n2/disks/preview new=sdc&old=sda
ticket POST /nodes/localhost/disks/preview new=sdc&old=sda
ticket POST /nodes/localhost/disks/repair`
	if got := strings.Join(posts, "\n"); got != want {
		t.Errorf("the node saw\n%s\nwant\n%s", got, want)
	}
}

// TestEvidence: crashes of the kernel and the support bundle.
func TestEvidence(t *testing.T) {
	env, seen := startNode(t)
	t.Chdir(t.TempDir())
	do := func(args ...string) result {
		t.Helper()
		return execute(t, env, "", append([]string{"node"}, args...)...)
	}
	do("crashes").check(t, exitOK, "ID                       TIME        REASON  SIZE\n20261129T010203-0-panic  1764378123  Panic   14\n")
	do("crashes", "n2", "--show", "x").check(t, exitOK, "Panic#1 Part1\nline?[2J\n\n")
	do("crashes", "n2", "--delete", "x").check(t, exitOK, "")
	do("crashes", "--delete", "x", "--show", "x").check(t, exitFailed, "", "none of the others can be")
	name := "joist-support-n1-20261129T010203.tar.gz"
	do("support").check(t, exitOK, name+"\n")
	do("support").check(t, exitFailed, "", "file exists")
	do("support", "n2").check(t, exitFailed, "", `the node calls the file "../x"`)
	do("support", "n2", "--out", "mine").check(t, exitOK, "mine\n")
	for _, n := range []string{name, "mine"} {
		st, err := os.Stat(n)
		if err != nil || st.Mode().Perm() != 0o600 || st.Size() != 5 {
			t.Errorf("%s: %v %v", n, st, err)
		}
	}
	if n := len(*seen); n != 7 {
		t.Errorf("the node saw %d calls: %q", n, *seen)
	}
}

func TestCredentials(t *testing.T) {
	env, seen := startNode(t)
	with := func(k, v string) map[string]string {
		m := map[string]string{}
		for a, b := range env {
			m[a] = b
		}
		m[k] = v
		return m
	}
	execute(t, with("JOIST_PASSWORD", ""), "", "api", "get", "/nodes").check(t, exitFailed, "", "no password: set JOIST_PASSWORD")
	execute(t, with("JOIST_PASSWORD", "no"), "", "api", "get", "/nodes").check(t, exitFailed, "", `log in "root@pam"`)
	execute(t, with("JOIST_SERVER", ""), "", "api", "get", "/nodes").check(t, exitFailed, "", "which node?")
	execute(t, with("JOIST_FINGERPRINT", ""), "", "api", "get", "/nodes").check(t, exitFailed, "", "repeat the command with --fingerprint", "\n  ")
	if len(*seen) != 0 {
		t.Errorf("seen %q", *seen)
	}
	execute(t, with("JOIST_TOKEN", "root@pam!x=y"), "", "api", "get", "/version").check(t, exitOK, "")
	if got := strings.Join(*seen, ""); got != "PVEAPIToken=root@pam!x=y GET /version" {
		t.Errorf("%q", got)
	}
	for in, want := range map[string]string{"n1": "https://n1:8006", "https://n1:443": "https://n1:443", "192.0.2.1:1": "https://192.0.2.1:1", "[2001:db8::1]": "https://[2001:db8::1]:8006"} {
		if got := serverURL(in); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}

func TestTypeInto(t *testing.T) {
	var sent bytes.Buffer
	if err := typeInto(&sent, strings.NewReader("ls\r\x1dmore")); err != errLeft && !strings.Contains(fmt.Sprint(err), "left") || sent.String() != "ls\r" {
		t.Errorf("%q %v", sent.String(), err)
	}
	sent.Reset()
	if err := typeInto(&sent, strings.NewReader("id\n")); err != nil || sent.String() != "id\n" {
		t.Errorf("%q %v", sent.String(), err)
	}
}

// TestServeStops: what is wrong is told before anything is offered.
func TestServeStops(t *testing.T) {
	dir := t.TempDir()
	r := execute(t, nil, "", "serve", "--address", "127.0.0.1", "--port", "0", dir)
	r.check(t, exitFailed, "", "open the netboot folder", "make it with: joist build netboot")
	answer := filepath.Join(dir, "answer.toml")
	if err := os.WriteFile(answer, []byte("[global]\nkeybord = \"de\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r = execute(t, nil, "", "serve", "--address", "127.0.0.1", "--answer", answer, dir)
	r.check(t, exitFindings, "", "keybord")
}

func TestCannotListen(t *testing.T) {
	var fl finding.List
	cannotListen(&fl, 69, &os.SyscallError{Syscall: "bind", Err: syscall.EACCES}, "--no-tftp")
	cannotListen(&fl, 67, fmt.Errorf("cannot bind to port 67: %v", syscall.EACCES), "--no-dhcp")
	cannotListen(&fl, 80, &os.SyscallError{Syscall: "bind", Err: syscall.EADDRINUSE}, "--port 8080")
	for i, want := range []string{"this port is for root", "this port is for root", "another program has this port"} {
		if fl[i].Text != want || !strings.Contains(fl[i].Hint, "use --") {
			t.Errorf("got %v", fl[i])
		}
	}
}
