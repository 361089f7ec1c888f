package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"joist/installer/answer"
	"joist/internal/finding"
)

func (c *cli) answerCommand() *cobra.Command {
	group := &cobra.Command{
		Use:   "answer",
		Short: "Check the file that answers the installer's questions",
		Long: `An answer file makes an installation run without anybody at the keyboard. It is
TOML or JSON; docs/answer-file.md lists all keys. The smallest one:

  [global]
  keyboard = "en-us"
  country = "at"
  timezone = "Europe/Vienna"
  fqdn = "node1.example.com"
  mailto = "admin@example.com"
  root-password = "8 characters or more"

  [network]
  source = "from-dhcp"

  [disk-setup]
  filesystem = "ext4"
  disk-list = ["sda"]`,
	}
	var asJSON bool
	validate := &cobra.Command{
		Use:   "validate FILE",
		Short: "Say all that is wrong with an answer file, with cures",
		Long: `Reads an answer file (- for standard input) as the installer does and shows every
finding with its line and cure. Exit status 0: nothing stops an installation;
2: something does.`,
		Example: "  joist answer validate answer.toml\n  joist answer validate --json - < answer.toml",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			_, found, err := c.readAnswer(args[0])
			if err != nil {
				return err
			}
			return c.showFindings(args[0], found, asJSON)
		},
	}
	validate.Flags().BoolVar(&asJSON, "json", false, "findings as JSON")
	group.AddCommand(validate, c.explainCommand(), c.schemaCommand())
	return group
}

func (c *cli) explainCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "explain FILE",
		Short: "Say what each key of an answer file does, secrets hidden",
		Long: `Shows every key that the file gives, in the spelling of the schema, with what it
does, and then the keys that it leaves out with what holds instead. Secrets are
shown as ***. Findings go to standard error; exit status 2 if one stops.`,
		Example: "  joist answer explain answer.toml",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			a, found, err := c.readAnswer(args[0])
			if err != nil {
				return err
			}
			found.Write(c.err)
			if found.Stops() {
				return errShown
			}
			fmt.Fprint(c.out, a.Explain())
			return nil
		},
	}
}

func (c *cli) schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "schema",
		Short:   "Print the JSON Schema of answer files, for editors",
		Long:    "Prints a JSON Schema (draft 2020-12) made from the table that the installer reads\nanswer files with. Editors check and complete TOML and JSON by it.",
		Example: "  joist answer schema",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			b, err := answer.Schema()
			if err != nil {
				return err
			}
			_, err = c.out.Write(b)
			return err
		},
	}
}

// readAnswer reads an answer file, or standard input for "-".
func (c *cli) readAnswer(name string) (answer.Answer, finding.List, error) {
	var r io.Reader = c.in
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return answer.Answer{}, nil, fmt.Errorf("read answer: %w", err)
		}
		defer f.Close()
		r = f
	}
	a, found := answer.Load(r, name)
	return a, found, nil
}

// showFindings prints findings where scripts look for them.
func (c *cli) showFindings(name string, found finding.List, asJSON bool) error {
	if asJSON {
		if found == nil {
			found = finding.List{}
		}
		b, err := json.MarshalIndent(found, "", "  ")
		if err != nil {
			return fmt.Errorf("encode findings: %w", err)
		}
		fmt.Fprintf(c.out, "%s\n", b)
	} else {
		found.Write(c.err)
	}
	if found.Stops() {
		return errShown
	}
	if !asJSON {
		fmt.Fprintf(c.out, "%s: nothing stops an installation\n", name)
	}
	return nil
}
