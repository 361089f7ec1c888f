// Package overlay holds the configuration files that are the image's own:
// what Debian's maintainer scripts would have asked for or generated, and
// what an immutable system needs differently. They lie in files/ as they will
// lie in the image.
package overlay

import (
	"embed"
	"io/fs"
	"strings"

	"joist/rootfs/tree"
)

//go:embed files
var files embed.FS

// Apply puts the files into the tree, all 0644 and root's.
func Apply(root *tree.Node) error {
	return fs.WalkDir(files, "files", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := files.ReadFile(p)
		if err != nil {
			return err
		}
		return root.AddFile(strings.TrimPrefix(p, "files"), 0o644, tree.Bytes(b))
	})
}
