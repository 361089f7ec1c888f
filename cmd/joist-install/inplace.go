package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"joist/image/boot"
	"joist/image/disk"
	"joist/installer/answer"
	"joist/installer/fetch"
	"joist/installer/nocloud"
	"joist/installer/plan"
	"joist/installer/probe"
	"joist/internal/finding"
	"joist/internal/host"
)

// ownMedium puts what the boot partition of our own disk holds beside the
// system where a medium would have it. It is read through the whole disk, as it
// is written later, and not mounted. An answer that was erased is none.
func ownMedium(h *host.Host, p probe.InPlace) error {
	esp, err := p.Table.Find(disk.NameESP)
	if err != nil {
		return fmt.Errorf("read the boot partition: %w", err)
	}
	f, err := os.Open(h.Path("/dev", p.Disk))
	if err != nil {
		return fmt.Errorf("read the boot partition: %w", err)
	}
	defer f.Close()
	r := io.NewSectionReader(f, esp.Start, esp.Size)
	text, err := fileOf(r, boot.PathManifest(boot.Slot(p.Slot)))
	if err != nil {
		return fmt.Errorf("read the boot partition: %w", err)
	}
	m, err := boot.DecodeManifest(text)
	if err != nil {
		return fmt.Errorf("read the boot partition: %w", err)
	}
	own := filepath.Join("joist", m.BuildID)
	for from, to := range map[string]string{
		boot.PathManifest(boot.Slot(p.Slot)): filepath.Join(own, "manifest.json"),
		boot.PathModuleKey:                   filepath.Join(own, "boot", plan.ModuleCert),
		boot.PathAnswer:                      filepath.Join("joist", answerName), boot.PathAnswerSource: filepath.Join("joist", answer.SourceFile),
		"/joist/" + answer.ProgramFile: filepath.Join("joist", answer.ProgramFile),
	} {
		text, err := fileOf(r, from)
		if errors.Is(err, fs.ErrNotExist) || err == nil && boot.NoAnswer(text) {
			continue
		}
		at := h.Path(probe.MediumDir, to)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(at), 0o700)
		}
		if err == nil {
			err = os.WriteFile(at, text, 0o600)
		}
		if err != nil {
			return fmt.Errorf("read %s of the boot partition: %w", from, err)
		}
	}
	return nil
}

// maxBeside bounds the small files of the boot partition.
const maxBeside = 4 << 20

func fileOf(r io.ReaderAt, path string) ([]byte, error) {
	x, err := disk.LocateFAT(r, path)
	if err != nil {
		return nil, err
	}
	if x.Size > maxBeside {
		return nil, fmt.Errorf("%s has %d bytes", path, x.Size)
	}
	b := make([]byte, x.Size)
	_, err = r.ReadAt(b, x.Offset)
	return b, err
}

// findSeed looks for an answer where an image of a disk gets one without being
// told: in the image itself, at the server that it names, on a labelled volume,
// on a volume for cloud-init. ok says that there was something; without,
// somebody is asked.
func (s *session) findSeed(ctx context.Context, f *probe.Facts, img plan.Image) (fl finding.List, ok bool) {
	search := fetch.Search{Kind: fetch.Medium}
	onMedium := func(name string) bool {
		_, err := os.Stat(s.h.Path(probe.MediumDir, "joist", name))
		return err == nil
	}
	switch {
	case onMedium(answerName):
	case onMedium(answer.SourceFile):
		search.Kind = fetch.URL
	default:
		a, fl, ok := s.onVolume("")
		if !ok {
			a, fl, ok = s.cloudInit(f)
		}
		if !ok {
			s.say("No answer is in the image, and there is no volume labelled %s or %s: answer here, or attach one and restart.", ourLabel, nocloud.Label)
			return nil, false
		}
		s.answer, s.o.unattended = a, true
		return fl, true
	}
	s.o.unattended = true
	s.answer, fl = s.findAnswer(ctx, search, f, img)
	return fl, true
}

// cloudInit reads the volume that a hypervisor gives for cloud-init.
func (s *session) cloudInit(f *probe.Facts) (a answer.Answer, fl finding.List, ok bool) {
	found := s.m.Labelled(nocloud.Label)
	switch len(found) {
	case 0:
		return a, nil, false
	case 1:
	default:
		fl.Stopf("answer-ambiguous", nocloud.Label, "attach exactly one", "%d volumes are labelled %s", len(found), nocloud.Label)
		return a, fl, true
	}
	var files nocloud.Files
	err := mounted(s.h, found[0], func(dir string) error {
		for name, to := range map[string]*[]byte{nocloud.UserData: &files.UserData, nocloud.MetaData: &files.MetaData, nocloud.NetworkConfig: &files.NetworkConfig} {
			b, err := readBounded(filepath.Join(dir, name))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("read %s: %w", name, err)
			}
			*to = b
		}
		return nil
	})
	if err != nil {
		fl.Stopf("answer-unreadable", "/dev/"+found[0].Where, "check the volume and its files", "%v", err)
		return a, fl, true
	}
	m := nocloud.Machine{}
	if f.InPlace != nil {
		m.Disk = f.InPlace.Disk
	}
	for _, n := range f.NICs {
		m.Cards = append(m.Cards, nocloud.Card{Name: n.Name, MAC: n.MAC})
	}
	for _, l := range f.Leases {
		m.Domain = cmp.Or(m.Domain, l.Domain)
	}
	a, fl = nocloud.Read(files, m)
	return a, fl, true
}

// readBounded reads a file of a foreign volume; what is too long is cut where
// its reader notices.
func readBounded(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxBeside))
}
