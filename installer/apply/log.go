package apply

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"joist/api/node"
	"joist/installer/plan"
)

// logMax is how much of the installer's log is kept.
const logMax = 1 << 20

// keepLog puts journal and log where the node finds them; until then they are
// in memory. Boot parts are there already: a volume that was not unmounted is
// repaired by the node as after any power cut.
func (a *applier) keepLog(act plan.KeepLog) error {
	state, err := a.mount(act.State, "state", a.fsType(plan.Seed{FSType: act.FSType}))
	if err != nil {
		return err
	}
	onState := func(p string) string { return filepath.Join(state, strings.TrimPrefix(p, "/var")) }
	if err := makeDir(onState(node.InstallDir), 0o700); err != nil {
		return err
	}
	a.mu.Lock()
	journal, err := json.MarshalIndent(a.journal, "", "  ")
	a.mu.Unlock()
	if err != nil {
		return fmt.Errorf("encode journal: %w", err)
	}
	if err := writeFile(onState(node.InstallJournal), 0o600, append(journal, '\n')); err != nil {
		return fmt.Errorf("keep journal: %w", err)
	}
	log, err := end(a.h.Path(node.LogDir, "joist-install.log"), logMax)
	if os.IsNotExist(err) { // started by hand, or to a terminal
		return a.unmountAll()
	}
	if err == nil {
		err = writeFile(onState(node.InstallLog), 0o600, log)
	}
	if err != nil {
		return fmt.Errorf("keep log: %w", err)
	}
	return a.unmountAll()
}

// end is the last part of a file.
func end(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.NewSectionReader(f, max(size-limit, 0), limit))
}
