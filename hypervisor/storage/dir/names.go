package dir

import (
	"fmt"
	"path"
	"regexp"
	"strings"

	"joist/hypervisor/storage"
)

// kind is one content type: the first part of a volume's name, the folder its
// files are in, and which file names belong there with their format.
type kind struct {
	content string
	prefix  string // of the volume's name
	folder  string // below the storage's path
	name    *regexp.Regexp
	formats []suffix
}

type suffix struct{ end, format string }

// plain is what any file name must be: nothing hidden, no white space, no
// leading dash, nothing that another part of the name could end at.
const plain = `[a-zA-Z0-9_][a-zA-Z0-9._+=~-]{0,250}`

// kinds is the layout of a directory storage, as clients of the field know it.
func kinds() []kind {
	return []kind{
		{storage.ISO, "iso", "template/iso", regexp.MustCompile(`^` + plain + `\.(?i:iso|img)$`),
			[]suffix{{".iso", "iso"}, {".img", "iso"}}},
		{storage.Template, "vztmpl", "template/cache", regexp.MustCompile(`^` + plain + `\.tar\.(gz|xz|zst)$`),
			[]suffix{{".tar.gz", "tgz"}, {".tar.xz", "txz"}, {".tar.zst", "tzst"}}},
		{storage.Backup, "backup", "dump", regexp.MustCompile(`^` + plain + `\.(vma|tar|tgz)(\.(gz|lzo|zst))?$`),
			[]suffix{{".tgz", "tgz"}, {".vma", "vma"}, {".vma.gz", "vma.gz"}, {".vma.lzo", "vma.lzo"}, {".vma.zst", "vma.zst"},
				{".tar", "tar"}, {".tar.gz", "tar.gz"}, {".tar.lzo", "tar.lzo"}, {".tar.zst", "tar.zst"}}},
		{storage.Import, "import", "import", regexp.MustCompile(`^` + plain + `\.(qcow2|raw|vmdk|ova)$`),
			[]suffix{{".qcow2", "qcow2"}, {".raw", "raw"}, {".vmdk", "vmdk"}, {".ova", "ova"}}},
		{storage.Snippets, "snippets", "snippets", regexp.MustCompile(`^` + plain + `$`), []suffix{{"", "snippet"}}},
	}
}

func kindOf(content string) (kind, bool) {
	for _, k := range kinds() {
		if k.content == content {
			return k, true
		}
	}
	return kind{}, false
}

// format is the format of a file by its name; the name passed the kind's rule.
func (k kind) format(file string) string {
	for _, s := range k.formats {
		if strings.HasSuffix(strings.ToLower(file), s.end) {
			return s.format
		}
	}
	return ""
}

var imageRE = regexp.MustCompile(`^([1-9][0-9]{2,8})/((?:vm|base|subvol)-([1-9][0-9]{2,8})-[a-zA-Z0-9][a-zA-Z0-9._-]*\.(raw|qcow2))$`)

// place is where a volume lies and what it is.
type place struct {
	file    string // below the storage's path
	content string
	format  string
	vmid    int
}

// parse takes a volume's name apart. Only what it knows gets a path.
func parse(name string) (place, error) {
	if m := imageRE.FindStringSubmatch(name); m != nil && m[1] == m[3] && !strings.Contains(name, "..") {
		return place{path.Join("images", name), storage.Images, m[4], storage.Owner(name)}, nil
	}
	prefix, file, ok := strings.Cut(name, "/")
	for _, k := range kinds() {
		if ok && k.prefix == prefix && k.name.MatchString(file) && !strings.Contains(file, "..") {
			p := place{file: path.Join(k.folder, file), content: k.content, format: k.format(file)}
			if k.content == storage.Backup {
				p.vmid = backupOwner(file)
			}
			return p, nil
		}
	}
	return place{}, fmt.Errorf("unable to parse directory volume name '%s'", name)
}

var backupRE = regexp.MustCompile(`^vzdump-(?:qemu|lxc)-([1-9][0-9]{2,8})-`)

func backupOwner(file string) int {
	if m := backupRE.FindStringSubmatch(file); m != nil {
		return storage.Owner("vm-" + m[1] + "-x")
	}
	return 0
}
