package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"joist/installer/answer"
	"joist/installer/fetch"
	"joist/installer/plan"
	"joist/installer/probe"
	"joist/internal/finding"
	"joist/internal/host"
)

// Labels of volumes that bring an answer.
const (
	ourLabel   = "joist-answer"
	theirLabel = "proxmox-ais"
	answerName = "answer.toml"
	answerDir  = "/run/joist/answer"
)

// volumeTime is how long a volume is waited for that is the only place to look.
const volumeTime = 30 * time.Second

// findAnswer loads the file that was named, or looks where search says: on the
// medium, at the server that the medium names, on a labelled volume, at the
// server that the network names. The first place that has something counts.
func (s *session) findAnswer(ctx context.Context, search fetch.Search, f *probe.Facts, img plan.Image) (answer.Answer, finding.List) {
	if s.o.answer != "" {
		return load(s.o.answer, s.o.answer)
	}
	is := func(kinds ...string) bool { return slices.Contains(kinds, search.Kind) }
	var fl finding.List
	if is(fetch.Auto, fetch.Medium) {
		onMedium := s.h.Path(probe.MediumDir, "joist", answerName)
		if _, err := os.Stat(onMedium); err == nil {
			return load(onMedium, answerName)
		}
	}
	if is(fetch.Auto, fetch.URL) && search.Source.URL == "" {
		baked, found := bakedSource(s.h)
		if found.Stops() {
			return answer.Answer{}, found
		}
		if baked.URL != "" {
			search.Kind, search.Source, fl = fetch.URL, baked, found
		}
	}
	if is(fetch.Auto, fetch.Partition) {
		a, found, ok := s.onVolume(search.Label)
		if !ok && is(fetch.Partition) { // the only place that is asked; a USB stick may be slow
			s.say("No volume with the answer yet; waiting for one for up to %v.", volumeTime)
		}
		for end := time.Now().Add(volumeTime); !ok && is(fetch.Partition) && time.Now().Before(end) && sleep(ctx, time.Second); {
			a, found, ok = s.onVolume(search.Label)
		}
		if ok {
			return a, found
		}
	}
	if is(fetch.Auto, fetch.URL) {
		a, found := s.fromServer(ctx, search.Source, f, img, is(fetch.Auto))
		return a, append(fl, found...)
	}
	fl.Stopf("answer-not-found", answerName, "put it into the medium (joist build iso --answer FILE), or attach exactly one volume labelled "+ourLabel+" or "+theirLabel+" with the file "+answerName,
		"there is no answer where joist.answer=%s looks", search.Kind)
	return answer.Answer{}, fl
}

// bakedSource reads which server the medium names, if it does.
func bakedSource(h *host.Host) (answer.Source, finding.List) {
	b, err := os.ReadFile(h.Path(probe.MediumDir, "joist", answer.SourceFile))
	if errors.Is(err, fs.ErrNotExist) {
		return answer.Source{}, nil
	}
	if err != nil {
		var fl finding.List
		fl.Stopf("answer-unreadable", answer.SourceFile, "write the medium again and check its checksum", "the medium cannot be read: %v", err)
		return answer.Source{}, fl
	}
	return answer.DecodeSource(b)
}

// onVolume reads the answer of the one labelled volume; ok says that there is
// one, or that there are too many.
func (s *session) onVolume(label string) (a answer.Answer, fl finding.List, ok bool) {
	labels := []string{ourLabel, theirLabel}
	if label != "" {
		labels = []string{label}
	}
	for _, l := range labels {
		found := s.m.Labelled(l)
		switch len(found) {
		case 0:
			continue
		case 1:
			a, fl, err := fromVolume(s.h, found[0])
			if err != nil {
				fl.Stopf("answer-unreadable", "/dev/"+found[0].Where, "check the volume and its file "+answerName, "%v", err)
			}
			return a, fl, true
		}
		fl.Stopf("answer-ambiguous", l, "attach exactly one", "%d volumes are labelled %s", len(found), l)
		return a, fl, true
	}
	return a, nil, false
}

// fromServer asks a server, for ten minutes if need be. A labelled volume that
// is attached meanwhile counts, where volumes are asked, too.
func (s *session) fromServer(ctx context.Context, from answer.Source, f *probe.Facts, img plan.Image, volumes bool) (answer.Answer, finding.List) {
	body, err := fetch.Identity(*f, img)
	if err != nil {
		var fl finding.List
		fl.Stopf("answer-unreadable", "network", "put the answer into the medium: joist build iso --answer FILE", "%v", err)
		return answer.Answer{}, fl
	}
	finder := fetch.Finder{Net: &askers{s: s, f: f, body: body}, Say: s.say, Sleep: sleep, Now: time.Now}
	var late struct {
		answer answer.Answer
		found  finding.List
		ok     bool
	}
	if volumes {
		finder.Else = func() bool {
			late.answer, late.found, late.ok = s.onVolume("")
			return late.ok
		}
	}
	reply, source, fl := finder.Find(ctx, from)
	if late.ok {
		return late.answer, late.found
	}
	if fl.Stops() {
		return answer.Answer{}, fl
	}
	if f.Reference == nil && !reply.Date.IsZero() {
		f.Reference = &probe.Reference{Time: f.Time.Add(time.Until(reply.Date)), Source: "the answer server"}
	}
	a, more := answer.Load(bytes.NewReader(reply.Text), "answer of "+source.From)
	return a, append(fl, more...)
}

func fromVolume(h *host.Host, c probe.Content) (a answer.Answer, fl finding.List, err error) {
	err = mounted(h, c, func(dir string) error {
		a, fl = load(filepath.Join(dir, answerName), c.Where+":"+answerName)
		return nil
	})
	return a, fl, err
}

// mounted lets f read a volume.
func mounted(h *host.Host, c probe.Content, f func(dir string) error) (err error) {
	types := map[string]string{"fat": "vfat", "iso9660": "iso9660", "ext4": "ext4"}
	if types[c.Kind] == "" {
		return fmt.Errorf("read answer: file system %q is not supported; use FAT, ISO 9660 or ext4", c.Kind)
	}
	if err := os.MkdirAll(h.Path(answerDir), 0o700); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	data := ""
	if c.Kind == "ext4" {
		data = "noload" // ext4(5): do not replay the journal, which would write
	}
	if err := h.Sys.Mount(host.Mount{Source: "/dev/" + c.Where, Target: answerDir, FSType: types[c.Kind],
		Flags: unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, Data: data}); err != nil {
		return fmt.Errorf("mount /dev/%s: %w", c.Where, err)
	}
	defer func() {
		if uerr := h.Sys.Unmount(answerDir); uerr != nil {
			err = errors.Join(err, fmt.Errorf("unmount /dev/%s: %w", c.Where, uerr))
		}
	}()
	return f(h.Path(answerDir))
}

func load(path, shown string) (answer.Answer, finding.List) {
	f, err := os.Open(path)
	if err != nil {
		var fl finding.List
		hint := "check the path"
		if !errors.Is(err, fs.ErrNotExist) {
			hint = "check the medium that holds the file"
		}
		fl.Stopf("answer-unreadable", shown, hint, "the answer file cannot be opened: %v", err)
		return answer.Answer{}, fl
	}
	defer f.Close()
	return answer.Load(f, shown)
}
