package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"joist/api/node"
	"joist/image/boot"
	"joist/installer/answer"
	"joist/installer/apply"
	"joist/installer/wizard"
	"joist/system/pid1"
)

// rescue carries out a verb of the rescue system on the installed one.
func (s *session) rescue(ctx context.Context) error {
	say := func(l string) { fmt.Fprintln(s.out, "  "+l) }
	switch s.o.command {
	case "password":
		return s.setPassword(ctx, say)
	case "slot":
		return startSlot(ctx, s.o.argument, say)
	case "boot":
		return repairBoot(ctx, say)
	case "enrol":
		return s.askForKey()
	}
	return fmt.Errorf("unknown command %q", s.o.command)
}

// askForKey has the next start enrol the key of the running medium's modules.
func (s *session) askForKey() error {
	img, err := readImage(s.h)
	if err != nil {
		return err
	}
	password, err := apply.AskForKey(s.h, img.BuildID)
	if err != nil {
		return err
	}
	fmt.Fprint(s.out, wizard.EnrolText(password))
	return nil
}

// setPassword asks for root's new password and writes its hash.
func (s *session) setPassword(ctx context.Context, say func(string)) error {
	password, err := askPassword(s.out[0])
	if err != nil {
		return err
	}
	hash, err := apply.HashPassword(password)
	if err != nil {
		return err
	}
	err = pid1.RescueWrite(ctx, s.h.Run, say, func(state string) error { return writeHash(state, hash) })
	if err == nil {
		say("root's password is set")
	}
	return err
}

func askPassword(c *console) (string, error) {
	c.Print("New password of root: ")
	first, err := c.Secret()
	if err != nil {
		return "", err
	}
	if utf8.RuneCountInString(first) < answer.MinPassword {
		return "", fmt.Errorf("the password has fewer than %d characters", answer.MinPassword)
	}
	c.Print("The same again: ")
	second, err := c.Secret()
	if err != nil {
		return "", err
	}
	if first != second {
		return "", errors.New("the two passwords differ; nothing was changed")
	}
	return first, nil
}

// writeHash replaces the hash on the state volume, which must be one of ours.
func writeHash(state, hash string) error {
	name := filepath.Join(state, strings.TrimPrefix(node.ShadowFile, "/var"))
	if err := node.WriteFile(name, 0o600, []byte(hash+"\n")); err != nil {
		return fmt.Errorf("set password: %w", err)
	}
	return nil
}

// startSlot makes all disks start a slot first.
func startSlot(ctx context.Context, name string, say func(string)) error {
	x, err := boot.ParseSlot(strings.ToUpper(name))
	if err != nil {
		return err
	}
	sys, ref, err := pid1.RescueBoot(ctx)
	if err != nil {
		return err
	}
	if _, ok := ref.Slots[x]; !ok {
		return fmt.Errorf("slot %s holds no system", x)
	}
	if err := sys.Change(ctx, func(s boot.State) boot.State { return prefer(s, x) }, func(f string, a ...any) { say(fmt.Sprintf(f, a...)) }); err != nil {
		return err
	}
	say("slot " + string(x) + " is started from now on")
	return nil
}

// prefer puts a slot first. One that is out of tries gets new ones: somebody
// wants it.
func prefer(s boot.State, x boot.Slot) boot.State {
	if v := s.Of(x); v.OK || v.Tries > 0 {
		return boot.Prefer(s, x)
	}
	return boot.Trial(s, x)
}

// repairBoot brings the boot parts of all disks to those of the one that counts.
func repairBoot(ctx context.Context, say func(string)) error {
	sys, ref, err := pid1.RescueBoot(ctx)
	if err != nil {
		return err
	}
	if err := sys.Reconcile(ctx, func(f string, a ...any) { say(fmt.Sprintf(f, a...)) }); err != nil {
		return err
	}
	copies, err := sys.Inspect(ctx, true)
	if err != nil {
		return err
	}
	var bad []string
	for _, c := range copies {
		if faults := c.Faults(); len(faults) > 0 {
			bad = append(bad, c.Disk.Name+": "+strings.Join(faults, ", "))
			continue
		}
		say(fmt.Sprintf("disk %s starts the system by itself", c.Disk.Name))
	}
	if len(bad) > 0 {
		return fmt.Errorf("some disks still lack boot parts, which those of %s cannot mend: %s", ref.Disk.Name, strings.Join(bad, "; "))
	}
	return nil
}
