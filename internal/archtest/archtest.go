// Package archtest keeps the rules of the source tree as tests: who may import
// whom, where external programs are started, what packages are called, that
// each says what it is for, and how large files, functions and interfaces may
// grow. The rules are tables in rules.go; each check is a function from the
// parsed tree to findings.
//
// It judges names and shapes only; whether the code is right is for others.
package archtest

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// File is one parsed Go file.
type File struct {
	Path string // with slashes, relative to the module
	Dir  string // package folder, relative; "." for the top
	Test bool
	AST  *ast.File
	Src  []byte
	Set  *token.FileSet
}

// Lines is the number of lines.
func (f File) Lines() int { return bytes.Count(f.Src, []byte("\n")) }

// At is "path:line" of a node.
func (f File) At(n ast.Node) string {
	return fmt.Sprintf("%s:%d", f.Path, f.Set.Position(n.Pos()).Line)
}

// Generated reports the standard remark of generators (go help generate).
func (f File) Generated() bool { return ast.IsGenerated(f.AST) }

// Load parses every Go file of the module at root, except in testdata, hidden
// folders and build/.
func Load(root string) ([]File, error) {
	var files []File
	set := token.NewFileSet()
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			hidden := strings.HasPrefix(d.Name(), ".") && rel != "."
			if hidden || d.Name() == "testdata" || rel == "build" || rel == "dist" {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(rel, ".go") {
			return nil
		}
		src, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		tree, err := parser.ParseFile(set, p, src, parser.ParseComments)
		if err != nil {
			return fmt.Errorf("parse %s: %w", rel, err)
		}
		files = append(files, File{Path: rel, Dir: path.Dir(rel), Test: strings.HasSuffix(rel, "_test.go"), AST: tree, Src: src, Set: set})
		return nil
	})
	return files, err
}

// Finding is one broken rule.
type Finding struct {
	At   string
	Text string
	Warn bool // over the aim, under the limit
}

// String is "path:line: text".
func (f Finding) String() string { return f.At + ": " + f.Text }

// imports are the import paths of a file with their positions.
func imports(f File) map[string]string {
	out := map[string]string{}
	for _, i := range f.AST.Imports {
		p, err := strconv.Unquote(i.Path.Value)
		if err == nil { // the parser has checked it
			out[p] = f.At(i)
		}
	}
	return out
}

// within reports whether folder dir is one of the trees in list, or below one.
// "a/*" is any folder directly in a, and what is below it.
func within(dir string, list []string) bool {
	for _, tree := range list {
		if base, ok := strings.CutSuffix(tree, "/*"); ok {
			if strings.HasPrefix(dir, base+"/") {
				return true
			}
			continue
		}
		if dir == tree || strings.HasPrefix(dir, tree+"/") {
			return true
		}
	}
	return false
}

// CheckImports applies mayImport and drivers. Tests may also use the harness
// and choose the drivers they run with: they use real parts.
func CheckImports(files []File) []Finding {
	var out []Finding
	for _, f := range files {
		top, _, _ := strings.Cut(f.Dir, "/")
		allowed, known := mayImport[top]
		if !known && f.Dir != "." {
			out = append(out, Finding{At: f.Path, Text: "folder " + top + " is not in the table of imports"})
			continue
		}
		for p, at := range imports(f) {
			dir, ours := strings.CutPrefix(p, module+"/")
			if !ours {
				continue
			}
			if f.Test && within(dir, []string{"test"}) {
				continue
			}
			if !within(dir, append([]string{top, "internal"}, allowed...)) {
				out = append(out, Finding{At: at, Text: fmt.Sprintf("%s may not import %s", top, dir)})
			}
			if driver := driverOf(dir); driver != "" && !f.Test && !within(f.Dir, append([]string{driver}, chooseDrivers...)) {
				out = append(out, Finding{At: at, Text: fmt.Sprintf("only cmd/joistd chooses drivers, such as %s", driver)})
			}
		}
	}
	return out
}

// driverOf is the driver's folder that dir is in, or "".
func driverOf(dir string) string {
	for _, d := range drivers {
		if within(dir, []string{d}) {
			return d
		}
	}
	return ""
}

// CheckEffects finds external programs started in other places than the
// listed ones, effects in folders of values, init functions and the old logger.
func CheckEffects(files []File) []Finding {
	var out []Finding
	for _, f := range files {
		for p, at := range imports(f) {
			switch {
			case p == "os/exec" && !f.Test && !within(f.Dir, mayExec):
				out = append(out, Finding{At: at, Text: "os/exec: start programs through internal/run"})
			case p == "log" && !f.Test:
				out = append(out, Finding{At: at, Text: "log: use log/slog, passed in"})
			case !f.Test && within(f.Dir, pure) && (p == module+"/internal/run" || p == module+"/internal/host" || p == "os/exec" || p == "net/http"):
				out = append(out, Finding{At: at, Text: "values and rules never import effects: " + p})
			}
		}
		for _, d := range f.AST.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" && !f.Test && !f.Generated() {
				out = append(out, Finding{At: f.At(fn), Text: "func init: call it from main"})
			}
		}
	}
	return out
}

// CheckPackages wants a package comment in each package and no forbidden name.
func CheckPackages(files []File) []Finding {
	var out []Finding
	commented, first := map[string]bool{}, map[string]File{}
	for _, f := range files {
		if f.Test {
			continue
		}
		if _, seen := first[f.Dir]; !seen {
			first[f.Dir] = f
		}
		if f.AST.Doc != nil && strings.TrimSpace(f.AST.Doc.Text()) != "" {
			commented[f.Dir] = true
		}
	}
	for dir, f := range first {
		if !commented[dir] {
			out = append(out, Finding{At: f.Path, Text: "package " + f.AST.Name.Name + " has no comment"})
		}
		for _, bad := range forbiddenNames {
			if f.AST.Name.Name == bad || path.Base(dir) == bad {
				out = append(out, Finding{At: f.Path, Text: "package name " + bad + " says nothing"})
			}
		}
	}
	return out
}

// CheckSizes compares files, functions and interfaces with the budgets.
// Generated files are not counted; tests may be long, their functions too.
func CheckSizes(files []File) []Finding {
	var out []Finding
	over := func(at, what string, n int, b Budget) {
		if n > b.Warn {
			out = append(out, Finding{At: at, Warn: n <= b.Fail, Text: fmt.Sprintf("%s: %d, aim %d, limit %d", what, n, b.Warn, b.Fail)})
		}
	}
	for _, f := range files {
		if f.Generated() || f.Test {
			continue
		}
		budget := fileLines
		if strings.HasPrefix(f.Dir, "cmd/") && path.Base(f.Path) == "main.go" {
			budget = mainLines
		}
		over(f.Path, "lines of the file", f.Lines(), budget)
		ast.Inspect(f.AST, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if n.Body != nil {
					lines := f.Set.Position(n.End()).Line - f.Set.Position(n.Pos()).Line + 1
					over(f.At(n), "lines of func "+n.Name.Name, lines, funcLines)
				}
			case *ast.TypeSpec:
				if it, ok := n.Type.(*ast.InterfaceType); ok {
					over(f.At(n), "methods of interface "+n.Name.Name, it.Methods.NumFields(), interfaceMethods)
				}
			}
			return true
		})
	}
	return out
}

// CheckFormat is gofmt -l.
func CheckFormat(files []File) []Finding {
	var out []Finding
	for _, f := range files {
		want, err := format.Source(f.Src)
		if err != nil {
			out = append(out, Finding{At: f.Path, Text: err.Error()})
		} else if !bytes.Equal(want, f.Src) {
			out = append(out, Finding{At: f.Path, Text: "not formatted: run gofmt"})
		}
	}
	return out
}
