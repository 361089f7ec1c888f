package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"joist/internal/run"
)

// goPackage is what `go list -json` says of a package that its compilation
// depends on.
type goPackage struct {
	ImportPath, Dir                                                            string
	Standard                                                                   bool
	Module                                                                     *goModule
	GoFiles, CgoFiles, CFiles, CXXFiles, HFiles, SFiles, SysoFiles, EmbedFiles []string
	Deps                                                                       []string
}

type goModule struct {
	Path, Version string
	Main          bool
	Replace       *goModule
}

const goPackageFields = "ImportPath,Dir,Standard,Module,GoFiles,CgoFiles,CFiles,CXXFiles,HFiles,SFiles,SysoFiles,EmbedFiles,Deps"

// sourceDigests names, for each of the packages, all that its program is made
// of: the version of Go, how it is called, and the sources down to the standard
// library. Go itself says which files those are; modules are known by version,
// to which go.sum holds them, and reported as path@version. What is not in the
// module cache is downloaded.
func (g goTool) sourceDigests(ctx context.Context, src string, cgo bool, pkgs []string) (digests map[string]string, modules []string, err error) {
	enabled := "CGO_ENABLED=0"
	if cgo {
		enabled = "CGO_ENABLED=1"
	}
	args := append([]string{"list", "-tags=liblxc", "-deps", "-json=" + goPackageFields}, pkgs...)
	out, err := run.OS{}.Run(ctx, run.Cmd{Path: g.path, Args: args, Env: append(slices.Clone(g.env), enabled), Dir: src})
	if err != nil {
		return nil, nil, fmt.Errorf("list what %s is made of: %w", strings.Join(pkgs, " "), explain(err))
	}
	byPath, byDir := map[string]goPackage{}, map[string]goPackage{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, nil, fmt.Errorf("list what %s is made of: %w", strings.Join(pkgs, " "), err)
		}
		byPath[p.ImportPath], byDir[p.Dir] = p, p
	}
	sums := map[string]string{} // of packages, several programs share most
	digests = map[string]string{}
	for _, name := range pkgs {
		p, ok := byDir[filepath.Join(src, name)]
		if !ok {
			return nil, nil, fmt.Errorf("list what %s is made of: go names no such package", name)
		}
		h := sha256.New()
		fmt.Fprintf(h, "%s %q %s\n", g.version, buildArgs("", name), enabled)
		for _, dep := range append(slices.Clone(p.Deps), p.ImportPath) {
			if _, ok := sums[dep]; !ok {
				if sums[dep], err = byPath[dep].digest(); err != nil {
					return nil, nil, err
				}
			}
			fmt.Fprintf(h, "%s %s\n", dep, sums[dep])
		}
		digests[name] = hex.EncodeToString(h.Sum(nil))
	}
	for _, sum := range sums {
		if strings.Contains(sum, "@") {
			modules = append(modules, sum)
		}
	}
	return digests, modules, nil
}

// digest names the content of a package.
func (p goPackage) digest() (string, error) {
	m := p.Module
	if m != nil && m.Replace != nil {
		m = m.Replace
	}
	switch {
	case p.Standard || p.Dir == "": // "C" and "unsafe" have no files
		return "std", nil
	case m != nil && m.Version != "":
		return m.Path + "@" + m.Version, nil
	}
	h := sha256.New()
	for _, list := range [][]string{p.GoFiles, p.CgoFiles, p.CFiles, p.CXXFiles, p.HFiles, p.SFiles, p.SysoFiles, p.EmbedFiles} {
		for _, name := range list {
			c, err := os.ReadFile(filepath.Join(p.Dir, name))
			if err != nil {
				return "", fmt.Errorf("read a source: %w", err)
			}
			fmt.Fprintf(h, "%q %x\n", name, sha256.Sum256(c))
		}
		fmt.Fprintln(h)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
