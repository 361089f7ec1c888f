package wizard

import (
	"fmt"
	"strings"
)

// Enrol asks a person whether the medium's module key shall be enrolled. ask
// requests that of the firmware and returns the password of the next start,
// which is shown with what to do there. Then the machine is to be restarted.
func Enrol(t Terminal, ask func() (password string, err error)) error {
	t.Print(`
Secure Boot is on, and this machine does not know the key that signed this
medium's ZFS modules. A person at its screen and keyboard can enrol the key
once, at the next start. Nothing is written to a disk before.

Type yes to have the next start ask for that, anything else to stop: `)
	reply, err := t.Line()
	if err != nil {
		return fmt.Errorf("ask whether to enrol the key: %w", err)
	}
	if strings.TrimSpace(reply) != "yes" {
		return ErrDeclined
	}
	password, err := ask()
	if err != nil {
		return err
	}
	t.Print(EnrolText(password) + "\nPress Enter to restart: ")
	if _, err := t.Line(); err != nil {
		return fmt.Errorf("wait for the restart: %w", err)
	}
	return nil
}

// EnrolText says what the next start shows and what to do there.
func EnrolText(password string) string {
	return fmt.Sprintf(`
Leave the medium in. The next start shows a blue screen, "Shim UEFI key
management", for ten seconds:

  1. press any key
  2. choose "Enroll MOK", then "Continue", then "Yes"
  3. type this password, which is for this once:  %s
  4. choose "Reboot", and start the installer again

If the ten seconds pass nothing is enrolled, and the installer asks again.
`, password)
}
