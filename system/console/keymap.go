package console

import (
	"io/fs"
	"path"
	"slices"
	"strings"
)

// keymaps names, for each layout that an answer file may name, the keymaps
// that stand for it, the best first: Debian's console-data, then other
// collections'. The kernel itself starts with the one for "en-us".
var keymaps = map[string][]string{
	"de":    {"de-latin1-nodeadkeys", "de-latin1"},
	"de-ch": {"sg-latin1", "de_CH-latin1"},
	"dk":    {"dk-latin1", "dk"},
	"en-gb": {"uk", "gb"},
	"en-us": {"us"},
	"es":    {"es"},
	"fi":    {"fi-latin1", "fi"},
	"fr":    {"fr-latin9", "fr-latin1"},
	"fr-be": {"be-latin1", "be2-latin1"},
	"fr-ca": {"cf", "ca"},
	"fr-ch": {"fr_CH-latin1", "fr_CH"},
	"hu":    {"hu"},
	"is":    {"is-latin1"},
	"it":    {"it"},
	"jp":    {"jp106"},
	"lt":    {"lt"},
	"mk":    {"mk"},
	"nl":    {"nl"},
	"no":    {"no-latin1"},
	"pl":    {"pl", "pl2"},
	"pt":    {"pt-latin1"},
	"pt-br": {"br-abnt2"},
	"se":    {"se-latin1", "sv-latin1"},
	"si":    {"slovene"},
	"tr":    {"trq", "tr_q-latin5"},
}

// Builtin is the layout that needs no keymap.
const Builtin = "en-us"

// Virtual is the first virtual terminal.
const Virtual = "/dev/tty1"

// keymapDirs are where Debian's console-data and kbd's own collection lie.
var keymapDirs = []string{"usr/share/keymaps", "usr/share/kbd/keymaps"}

// Layouts lists the known layouts.
func Layouts() []string {
	var out []string
	for l := range keymaps {
		out = append(out, l)
	}
	slices.Sort(out)
	return out
}

// Keymap finds the file for a layout in the image root, as an absolute path.
// A map that is called like the layout serves where none of the table is.
func Keymap(root fs.FS, layout string) (file string, ok bool) {
	names, ok := keymaps[layout]
	if !ok {
		return "", false
	}
	best := len(names) + 1
	for _, dir := range keymapDirs {
		fs.WalkDir(root, dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return nil // a collection that is not there
			}
			if n := rank(names, layout, path.Base(p)); n < best && pcKeyboard(p) {
				best, file = n, "/"+p
			}
			return nil
		})
	}
	return file, file != ""
}

// rank is the place of a keymap's file name in the order of preference.
func rank(names []string, layout, base string) int {
	base = strings.TrimSuffix(base, ".gz")
	name, isMap := strings.CutSuffix(base, ".kmap")
	if !isMap {
		if name, isMap = strings.CutSuffix(base, ".map"); !isMap {
			return len(names) + 1
		}
	}
	if i := slices.Index(names, name); i >= 0 {
		return i
	}
	if name == layout {
		return len(names)
	}
	return len(names) + 1
}

// pcKeyboard leaves out the maps of other machines' keyboards, which have the
// same names.
func pcKeyboard(p string) bool {
	for _, other := range []string{"amiga", "atari", "mac", "sun"} {
		if slices.Contains(strings.Split(p, "/"), other) {
			return false
		}
	}
	return true
}
