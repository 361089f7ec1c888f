package boot

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Extension is an image that lies behind the system in system.sqfs: a squashfs
// with a hash tree of its own. Extensions follow each other without gaps. The
// system itself holds their list, so that its root hash covers theirs.
type Extension struct {
	Name       string   `json:"name"`
	Size       int64    `json:"size"`        // bytes, with the hash tree
	VerityRoot string   `json:"verity_root"` // root hash of its tree
	Packages   []string `json:"packages"`    // of Debian, "name version", sorted
}

// ExtensionsFile is where a system names its extensions. One without them has no
// such file.
const ExtensionsFile = "/usr/lib/joist/extensions.json"

// MaxExtensions is how many a system may have: their hashes must fit on a
// kernel's command line, which has 2048 bytes.
const MaxExtensions = 8

// argExtension begins the kernel argument that has an extension's root hash, for
// who compares the slots of several disks: joist.ext=NAME:HASH.
const argExtension = "joist.ext="

// extensionArgs are a slot's arguments for its extensions.
func extensionArgs(list []Extension) []string {
	var out []string
	for _, x := range list {
		out = append(out, argExtension+x.Name+":"+x.VerityRoot)
	}
	return out
}

// ExtensionRoots are the root hashes of extensions that kernel arguments name, in
// the order in which they lie behind the system.
func ExtensionRoots(args string) []string {
	var out []string
	for a := range strings.FieldsSeq(args) {
		if v, ok := strings.CutPrefix(a, argExtension); ok {
			_, root, _ := strings.Cut(v, ":")
			out = append(out, root)
		}
	}
	return out
}

var reExtension = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)

// ExtensionName reports whether an extension may be called so.
func ExtensionName(name string) bool { return reExtension.MatchString(name) }

// EncodeExtensions is the file that names them.
func EncodeExtensions(list []Extension) ([]byte, error) {
	if err := checkExtensions(list); err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(list, "", "  ")
	return append(b, '\n'), err
}

// DecodeExtensions reads what EncodeExtensions wrote.
func DecodeExtensions(text []byte) ([]Extension, error) {
	var list []Extension
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("read the list of extensions: %w", err)
	}
	return list, checkExtensions(list)
}

func checkExtensions(list []Extension) error {
	if len(list) > MaxExtensions {
		return fmt.Errorf("check extensions: %d are more than %d", len(list), MaxExtensions)
	}
	seen := map[string]bool{}
	for _, x := range list {
		switch {
		case !ExtensionName(x.Name):
			return fmt.Errorf("check extensions: %q is no name of an extension", x.Name)
		case seen[x.Name]:
			return fmt.Errorf("check extensions: %q is there twice", x.Name)
		case x.Size <= 0 || x.Size%4096 != 0 || x.Size > 1<<40:
			return fmt.Errorf("check extensions: the size of %q is %d", x.Name, x.Size)
		case !reHash.MatchString(x.VerityRoot):
			return errors.New("check extensions: verity_root of " + x.Name + " is not a SHA-256 hash")
		}
		seen[x.Name] = true
	}
	return nil
}
