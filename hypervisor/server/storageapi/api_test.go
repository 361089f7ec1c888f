package storageapi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"joist/hypervisor/server"
	"joist/hypervisor/storage"
	"joist/hypervisor/storage/dir"
	"joist/hypervisor/task"
	"joist/internal/run"
)

// tasks runs each task to its end before Start returns.
type tasks struct {
	mu  sync.Mutex
	err error
	log []string
}

func (s *tasks) Printf(f string, a ...any) { s.log = append(s.log, fmt.Sprintf(f, a...)) }
func (s *tasks) Warnf(f string, a ...any)  { s.Printf(f, a...) }

func (s *tasks) Start(spec task.Spec, f task.Func) (task.UPID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = f(context.Background(), s)
	u := task.UPID{Node: "n1", Num: 1, Time: time.Unix(1, 0), Type: spec.Type, ID: spec.ID, User: spec.User}
	return task.ParseUPID(u.String()) // what cannot be parsed would be lost
}

type world struct {
	*API
	dir   string
	tasks *tasks
	t     *testing.T
	deny  string
}

func newWorld(t *testing.T) *world {
	w := &world{dir: t.TempDir(), tasks: &tasks{}, t: t}
	set := storage.NewSet([]storage.Config{
		{ID: "local", Type: "dir", Path: w.dir, Content: []string{"iso", "vztmpl", "import", "images"}},
		{ID: "off", Type: "dir", Path: w.dir, Content: []string{"iso"}, Disable: true},
		{ID: "gone", Type: "dir", Path: filepath.Join(w.dir, "missing"), Content: []string{"images"}},
	}, map[string]storage.Factory{"dir": func(c storage.Config) (storage.Pool, error) {
		p, err := dir.Open(c, run.OS{})
		if err != nil {
			return nil, err
		}
		return p, nil
	}})
	w.API = &API{Node: "n1", Storages: set, Tasks: w.tasks}
	return w
}

// call finds the route by verb and path, and calls its handler.
func (w *world) call(verb, path string, v server.Values, body io.Reader, kind string) (any, error) {
	w.t.Helper()
	for _, r := range w.Routes() {
		if r.Verb != verb || r.Path != path {
			continue
		}
		if v == nil {
			v = server.Values{}
		}
		if !v.Has("storage") {
			v["storage"] = "local"
		}
		req := httptest.NewRequest(verb, "/", body)
		req.Header.Set("Content-Type", kind)
		return r.Do(w.t.Context(), &server.Request{Method: &r.Method, Params: v, Who: server.Identity{User: "root@pam"}, HTTP: req,
			May: func(path, priv string) bool { return w.deny == "" || !strings.Contains(path+" "+priv, w.deny) }})
	}
	w.t.Fatalf("no route %s %s", verb, path)
	return nil, nil
}

const s = "/nodes/{node}/storage/{storage}"

func (w *world) upload(parts ...string) (any, error) {
	var b bytes.Buffer
	m := multipart.NewWriter(&b)
	for i := 0; i < len(parts); i += 2 {
		if name, ok := strings.CutPrefix(parts[i], "file:"); ok {
			p, _ := m.CreateFormFile("filename", name)
			io.WriteString(p, parts[i+1])
		} else {
			m.WriteField(parts[i], parts[i+1])
		}
	}
	m.Close()
	return w.call("POST", s+"/upload", nil, &b, m.FormDataContentType())
}

func text(err error) string {
	if e, ok := err.(*server.Error); ok {
		return fmt.Sprint(e.Status, " ", e.Text, " ", e.Params)
	}
	return fmt.Sprint(err)
}

func (w *world) left() []string {
	m, _ := filepath.Glob(filepath.Join(w.dir, ".joist-upload-*"))
	return m
}

func TestUpload(t *testing.T) {
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte("hello")))
	for name, c := range map[string]struct {
		parts          []string
		err, exit, vol string
	}{
		"plain":          {[]string{"content", "iso", "file:x.iso", "hello"}, "", "", "template/iso/x.iso"},
		"fields after":   {[]string{"file:x.iso", "hello", "checksum", sum, "checksum-algorithm", "sha256", "content", "iso"}, "", "", "template/iso/x.iso"},
		"fields before":  {[]string{"checksum-algorithm", "sha256", "checksum", strings.ToUpper(sum), "content", "import", "file:x.qcow2", "hello"}, "", "", "import/x.qcow2"},
		"template":       {[]string{"content", "vztmpl", "file:d.tar.zst", "hello"}, "", "", "template/cache/d.tar.zst"},
		"wrong sum":      {[]string{"content", "iso", "checksum-algorithm", "sha256", "checksum", sum, "file:x.iso", "hullo"}, "", "checksum mismatch", ""},
		"wrong sum, 2":   {[]string{"file:x.iso", "hullo", "content", "iso", "checksum-algorithm", "sha256", "checksum", sum}, "", "checksum mismatch", ""},
		"sum alone":      {[]string{"content", "iso", "checksum", sum, "file:x.iso", "hello"}, "needed together", "", ""},
		"sum length":     {[]string{"content", "iso", "checksum", "ab", "checksum-algorithm", "md5", "file:x.iso", "hello"}, "has 32 digits", "", ""},
		"algorithm":      {[]string{"content", "iso", "checksum", "ab", "checksum-algorithm", "crc", "file:x.iso", "hello"}, "enumeration", "", ""},
		"no content":     {[]string{"file:x.iso", "hello"}, "content:property is missing", "", ""},
		"wrong content":  {[]string{"content", "images", "file:x.iso", "hello"}, "400", "", ""},
		"no file":        {[]string{"content", "iso"}, "filename:property is missing", "", ""},
		"extension":      {[]string{"content", "iso", "file:x.exe", "hello"}, "wrong file extension", "", ""},
		"extension, 2":   {[]string{"file:x.exe", "hello", "content", "iso"}, "wrong file extension", "", ""},
		"folder is cut":  {[]string{"content", "iso", "file:../../etc/x.iso", "hello"}, "", "", "template/iso/x.iso"},
		"two files":      {[]string{"content", "iso", "file:x.iso", "hello", "file:y.iso", "hello"}, "more than one file", "", ""},
		"unknown field":  {[]string{"content", "iso", "evil", "1", "file:x.iso", "hello"}, "evil:property is not defined", "", ""},
		"long field":     {[]string{"content", strings.Repeat("x", 5000), "file:x.iso", "hello"}, "too long", "", ""},
		"no form at all": {nil, "content:property is missing", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			got, err := w.upload(c.parts...)
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(text(err), c.err) {
				t.Fatalf("%v, %s", got, text(err))
			}
			if err == nil && !strings.Contains(got.(string), ":imgcopy:") {
				t.Errorf("UPID %v", got)
			}
			if exit := fmt.Sprint(w.tasks.err); (c.exit == "") != (w.tasks.err == nil) || !strings.Contains(exit, c.exit) && c.exit != "" {
				t.Errorf("task ended with %v", exit)
			}
			if l := w.left(); len(l) != 0 {
				t.Errorf("left in the spool: %v", l)
			}
			if c.vol == "" {
				return
			}
			if b, err := os.ReadFile(filepath.Join(w.dir, c.vol)); err != nil || string(b) != "hello" {
				t.Errorf("%q, %v", b, err)
			}
			if _, err := w.upload(c.parts...); err == nil || !strings.Contains(text(err), "refusing to override existing file") {
				t.Errorf("second upload: %s", text(err))
			}
		})
	}
}

func TestFull(t *testing.T) {
	w := newWorld(t)
	w.Reserve = 1 << 60
	_, err := w.upload("content", "iso", "file:x.iso", "hello")
	if err == nil || !strings.HasPrefix(text(err), "500 storage 'local' is full: the file needs ") || len(w.left()) != 0 {
		t.Errorf("%s, %v", text(err), w.left())
	}
	// A client that does not say how much comes is cut off at the limit.
	f := &form{fields: map[string]string{}, name: "x.iso"}
	p, _ := w.Storages.Pool("local")
	if err := w.spool(t.Context(), f, strings.NewReader("hello"), -1, p, p.(storage.Uploader)); err == nil || !strings.Contains(err.Error(), "is full") {
		t.Error(err)
	}
	f.discard(p.(storage.Uploader))
	// A connection that breaks leaves nothing.
	body := "--x\r\nContent-Disposition: form-data; name=\"filename\"; filename=\"x.iso\"\r\n\r\nhalf"
	w.Reserve = 0
	if _, err := w.call("POST", s+"/upload", nil, strings.NewReader(body), "multipart/form-data; boundary=x"); err == nil || len(w.left()) != 0 {
		t.Errorf("%v, %v", err, w.left())
	}
	if _, err := w.call("POST", s+"/upload", nil, strings.NewReader("a=b"), "text/plain"); !strings.HasPrefix(text(err), "400 ") {
		t.Error(text(err))
	}
}

func TestDownload(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/missing.iso" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/x-iso9660-image")
		w.Header().Set("Content-Length", "5")
		io.WriteString(w, "hello")
	}))
	defer srv.Close()
	w := newWorld(t)
	get := func(path string, more server.Values) (any, error) {
		v := server.Values{"content": "iso", "filename": "x.iso", "url": srv.URL + path}
		for k, x := range more {
			v[k] = x
		}
		return w.call("POST", s+"/download-url", v, nil, "")
	}
	wrong := server.Values{"checksum-algorithm": "sha256", "checksum": strings.Repeat("0", 64)}
	if _, err := get("/x.iso", wrong); err != nil || w.tasks.err == nil || !strings.Contains(w.tasks.err.Error(), "checksum mismatch") || len(w.left()) != 0 {
		t.Errorf("%v, %v, %v", err, w.tasks.err, w.left())
	}
	if _, err := get("/missing.iso", nil); err != nil || w.tasks.err == nil || !strings.Contains(w.tasks.err.Error(), "404") {
		t.Errorf("%v, %v", err, w.tasks.err)
	}
	good := server.Values{"checksum-algorithm": "sha256", "checksum": fmt.Sprintf("%x", sha256.Sum256([]byte("hello")))}
	if u, err := get("/x.iso", good); err != nil || w.tasks.err != nil || !strings.Contains(fmt.Sprint(u), ":download:") {
		t.Errorf("%v, %v, %v", u, err, w.tasks.err)
	}
	if _, err := get("/x.iso", nil); err == nil || !strings.Contains(text(err), "refusing to override existing file") {
		t.Errorf("again: %v", text(err))
	}
	if _, err := get("/x.iso", server.Values{"url": "file:///etc/passwd"}); !strings.HasPrefix(text(err), "400 ") {
		t.Error(text(err))
	}
	m, err := w.call("GET", "/nodes/{node}/query-url-metadata", server.Values{"url": srv.URL + "/a/x.iso"}, nil, "")
	if b, _ := json.Marshal(m); err != nil || string(b) != `{"filename":"x.iso","mimetype":"application/x-iso9660-image","size":5}` {
		t.Errorf("%s, %v", b, err)
	}
}

func TestRead(t *testing.T) {
	w := newWorld(t)
	if _, err := w.upload("content", "iso", "file:x.iso", "hello"); err != nil {
		t.Fatal(err)
	}
	vol, err := w.call("POST", s+"/content", server.Values{"filename": "vm-100-disk-0.raw", "vmid": int64(100), "size": "8M"}, nil, "")
	if err != nil || vol != "local:100/vm-100-disk-0.raw" {
		t.Fatalf("%v, %v", vol, text(err))
	}
	if _, err := w.call("POST", s+"/content", server.Values{"filename": "vm-101-disk-0", "vmid": int64(100), "size": "8M"}, nil, ""); !strings.HasPrefix(text(err), "400 ") {
		t.Error(text(err))
	}
	numbers := regexp.MustCompile(`"(ctime|avail|total|used|used_fraction)":[0-9.e+-]+|"digest":"[0-9a-f]+"|"path":"[^"]*"`)
	for _, c := range []struct {
		name, path string
		v          server.Values
		want       string
	}{
		{"definitions", "/storage", nil, `[{"content":"images","DIGEST","PATH","storage":"gone","type":"dir"},{"content":"images,import,iso,vztmpl","DIGEST","PATH","storage":"local","type":"dir"},{"content":"iso","DIGEST","disable":1,"PATH","storage":"off","type":"dir"}]`},
		{"definitions by type", "/storage", server.Values{"type": "zfspool"}, `[]`},
		{"list", "/nodes/{node}/storage", server.Values{"storage": ""}, `[{"active":0,"AVAIL","content":"images","enabled":1,"shared":0,"storage":"gone","TOTAL","type":"dir","USED"},{"active":1,"AVAIL","content":"images,import,iso,vztmpl","enabled":1,"shared":0,"storage":"local","TOTAL","type":"dir","USED","USED_FRACTION"},{"active":0,"AVAIL","content":"iso","enabled":0,"shared":0,"storage":"off","TOTAL","type":"dir","USED"}]`},
		{"list by content", "/nodes/{node}/storage", server.Values{"storage": "", "content": []string{"iso"}, "enabled": true}, `[{"active":1,"AVAIL","content":"images,import,iso,vztmpl","enabled":1,"shared":0,"storage":"local","TOTAL","type":"dir","USED","USED_FRACTION"}]`},
		{"list for another node", "/nodes/{node}/storage", server.Values{"storage": "", "target": "n2"}, `[]`},
		{"status", s + "/status", nil, `{"active":1,"AVAIL","content":"images,import,iso,vztmpl","enabled":1,"shared":0,"TOTAL","type":"dir","USED"}`},
		{"content", s + "/content", nil, `[{"content":"iso","CTIME","format":"iso","size":5,"USED","volid":"local:iso/x.iso"},{"content":"images","CTIME","format":"raw","size":8388608,"vmid":100,"volid":"local:100/vm-100-disk-0.raw"}]`},
		{"content by type", s + "/content", server.Values{"content": "vztmpl"}, `[]`},
		{"content by guest", s + "/content", server.Values{"vmid": int64(101)}, `[]`},
		{"volume", s + "/content/{volume...}", server.Values{"volume": "local:iso/x.iso"}, `{"format":"iso","PATH","size":5,"USED"}`},
		{"volume without storage", s + "/content/{volume...}", server.Values{"volume": "iso/x.iso"}, `{"format":"iso","PATH","size":5,"USED"}`},
	} {
		got, err := w.call("GET", c.path, c.v, nil, "")
		b, _ := json.Marshal(got)
		text := numbers.ReplaceAllStringFunc(string(b), func(m string) string {
			return strings.ToUpper(m[:strings.Index(m, ":")])
		})
		if err != nil || text != c.want {
			t.Errorf("%s: %v\ngot  %s\nwant %s", c.name, err, text, c.want)
		}
	}
	for _, c := range []struct {
		verb, path string
		v          server.Values
		want       string
	}{
		{"GET", s + "/status", server.Values{"storage": "x"}, "400 Parameter verification failed. map[storage:No such storage.]"},
		{"GET", "/storage/{storage}", server.Values{"storage": "x"}, "500 storage 'x' does not exist map[]"},
		{"GET", s + "/content/{volume...}", server.Values{"volume": "iso/x"}, "unable to parse directory volume name 'iso/x'"},
		{"DELETE", s + "/content/{volume...}", server.Values{"volume": "iso/x"}, "unable to parse directory volume name 'iso/x'"},
		{"DELETE", s + "/content/{volume...}", server.Values{"volume": "iso/y.iso"}, "500 volume 'local:iso/y.iso' does not exist map[]"},
		{"DELETE", s + "/content/{volume...}", server.Values{"volume": "local:iso/../../x.iso"}, "400 "},
		{"DELETE", s + "/content/{volume...}", server.Values{"volume": "other:iso/x.iso"}, "400 "},
		{"GET", s + "/content", server.Values{"storage": "off"}, "500 storage 'off' is disabled"},
	} {
		if _, err := w.call(c.verb, c.path, c.v, nil, ""); err == nil || !strings.HasPrefix(text(err), c.want) {
			t.Errorf("%s %s %v: %s", c.verb, c.path, c.v, text(err))
		}
	}
}

func TestDelete(t *testing.T) {
	w := newWorld(t)
	w.upload("content", "iso", "file:x.iso", "hello")
	del := func(vol string, more server.Values) (any, error) {
		v := server.Values{"volume": vol}
		for k, x := range more {
			v[k] = x
		}
		return w.call("DELETE", s+"/content/{volume...}", v, nil, "")
	}
	w.deny = "Datastore"
	if _, err := del("iso/x.iso", nil); !strings.HasPrefix(text(err), "403 ") {
		t.Error(text(err))
	}
	w.deny = ""
	if u, err := del("local:iso/x.iso", nil); err != nil || w.tasks.err != nil || !strings.Contains(u.(string), ":imgdel:local@x.iso:root@pam:") {
		t.Errorf("%v, %v, %v", u, err, w.tasks.err)
	}
	w.call("POST", s+"/content", server.Values{"filename": "vm-100-disk-0", "vmid": int64(100), "size": "1024"}, nil, "")
	w.InUse = func(_ context.Context, volid string) error { return fmt.Errorf("guest 100 uses %s", volid) }
	if _, err := del("100/vm-100-disk-0.raw", nil); err != nil || w.tasks.err == nil {
		t.Errorf("a disk in use: %v, %v", err, w.tasks.err)
	}
	w.InUse = nil
	if u, err := del("100/vm-100-disk-0.raw", server.Values{"delay": int64(5)}); err != nil || u != nil || w.tasks.err != nil {
		t.Errorf("with delay: %v, %v, %v", u, err, w.tasks.err)
	}
}

// TestDeclarations: every parameter of a path is declared, what concerns a
// node is marked so.
func TestDeclarations(t *testing.T) {
	re := regexp.MustCompile(`\{(\w+)(?:\.\.\.)?\}`)
	for _, r := range (&API{}).Routes() {
		for _, m := range re.FindAllStringSubmatch(r.Path, -1) {
			found := false
			for _, p := range r.Params {
				found = found || p.Name == m[1]
			}
			if !found {
				t.Errorf("%s %s: {%s} is not declared", r.Verb, r.Path, m[1])
			}
		}
		if r.OnNode != strings.HasPrefix(r.Path, "/nodes/{node}") || r.Do == nil || r.Text == "" {
			t.Errorf("%s %s: incomplete", r.Verb, r.Path)
		}
	}
}
