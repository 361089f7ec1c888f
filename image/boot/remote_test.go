package boot

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func remote() Remote {
	file := func(n int64) File { return File{Size: n, SHA256: strings.Repeat("5", 64)} }
	return Remote{
		Manifest: Manifest{BuildID: "0123456789abcdef", Version: "1.2.3", Built: time.Unix(1, 0).UTC(), Kernel: "6.12", VerityRoot: strings.Repeat("6", 64),
			Files: map[string]File{FileKernel: file(1), FileInitrd: file(2), FileSystem: file(3)}},
		Loaders: map[string]File{"shimx64.efi": file(4), "grub-boot.img": file(5)},
	}
}

// The medium that is made of what was fetched looks like that of an ISO.
func TestRemote(t *testing.T) {
	text, err := remote().Encode()
	if err != nil {
		t.Fatal(err)
	}
	r, err := DecodeRemote(text)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, f := range append(r.Boot(), r.System()) {
		got[f.From] = f.To
	}
	want := map[string]string{
		"system.sqfs": "joist/0123456789abcdef/system.sqfs", "vmlinuz": "boot/vmlinuz", "initrd": "boot/initrd",
		"boot/shimx64.efi": "joist/0123456789abcdef/boot/shimx64.efi", "boot/grub-boot.img": "joist/0123456789abcdef/boot/grub-boot.img",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for what, change := range map[string]func(*Remote){
		"a path":       func(r *Remote) { r.Loaders["../x"] = r.Loaders["shimx64.efi"] },
		"no hash":      func(r *Remote) { r.Loaders["x"] = File{Size: 1} },
		"no size":      func(r *Remote) { r.Loaders["x"] = File{SHA256: strings.Repeat("5", 64)} },
		"no build":     func(r *Remote) { r.Manifest.BuildID = "" },
		"system.sqfs":  func(r *Remote) { delete(r.Manifest.Files, FileSystem) },
		"a build path": func(r *Remote) { r.Manifest.BuildID = "../../../../etc/" },
	} {
		r := remote()
		change(&r)
		if _, err := r.Encode(); err == nil {
			t.Errorf("%s was taken", what)
		}
	}
	if _, err := DecodeRemote([]byte("{")); err == nil {
		t.Error("half a file was taken")
	}
}
