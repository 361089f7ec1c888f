package pid1

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"

	"joist/api/node"
	"joist/internal/run"
	"joist/system/cmdline"
	"joist/system/console"
)

// mediumAnswer is the answer on the medium, as stage 1 has mounted it.
const mediumAnswer = "/run/joist/medium/joist/answer.toml"

// loadKeymap gives the virtual terminals the keyboard's layout. Whatever is
// missing (a virtual terminal, a layout, its keymap) leaves the kernel's own.
func (s *system) loadKeymap(ctx context.Context) error {
	layout := s.opt.Keyboard
	switch s.opt.Mode {
	case cmdline.Node:
		if cfg, err := node.Load("/"); err == nil && cfg.Keyboard != "" {
			layout = cfg.Keyboard
		}
	case cmdline.Install:
		if b, err := os.ReadFile(mediumAnswer); err == nil && layout == "" {
			layout = answerKeyboard(string(b))
		}
	}
	if layout == "" || layout == console.Builtin {
		return nil
	}
	return quietly(SetKeymap(ctx, s.run, layout))
}

// quietly lets pass what is no reason for a word at a boot.
func quietly(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// SetKeymap gives the virtual terminals a layout, as answer files name it. The
// error is os.ErrNotExist when there are none, or no keymap for the layout.
func SetKeymap(ctx context.Context, r run.Runner, layout string) error {
	file, ok := console.Keymap(os.DirFS("/"), layout)
	if !ok {
		return fmt.Errorf("find keymap of layout %q: %w (known: %s)", layout, os.ErrNotExist, strings.Join(console.Layouts(), " "))
	}
	if _, err := os.Stat(console.Virtual); err != nil {
		return fmt.Errorf("find a virtual terminal: %w", err)
	}
	// One keymap is for all of them; -C names one to ask the kernel by.
	if _, err := r.Run(ctx, run.Cmd{Path: "loadkeys", Args: []string{"-q", "-C", console.Virtual, file}}); err != nil {
		return fmt.Errorf("load keymap of layout %q: %w", layout, err)
	}
	return nil
}

var keyboardLine = regexp.MustCompile(`^\s*(?:global\.)?keyboard\s*=\s*["']([a-z-]+)["']`)

// answerKeyboard finds global.keyboard in an answer file. It needs no more of
// TOML: what is no layout of the table is not used, and the installer reads
// the file properly.
func answerKeyboard(text string) string {
	for line := range strings.Lines(text) {
		if m := keyboardLine.FindStringSubmatch(line); m != nil {
			return m[1]
		}
	}
	return ""
}

// nodeKeyboard is the layout in a node.json.
func nodeKeyboard(file string) string {
	var cfg node.Config
	b, err := os.ReadFile(file)
	if err != nil || json.Unmarshal(b, &cfg) != nil {
		return ""
	}
	return cfg.Keyboard
}
