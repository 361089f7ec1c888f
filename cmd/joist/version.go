package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"

	"github.com/spf13/cobra"

	"joist/iso/build"
)

// imageFile says on a node which image it runs.
const imageFile = "/usr/lib/joist/build.json"

func (c *cli) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show the version of this tool and, on a node, of its image",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			fmt.Fprintf(c.out, "joist %s (%s, %s/%s)\n", build.Defaults().Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			b, err := os.ReadFile(imageFile)
			if err != nil {
				return nil // not on a node
			}
			var image struct {
				Version string `json:"version"`
				BuildID string `json:"build_id"`
				Built   string `json:"built"`
			}
			if err := json.Unmarshal(b, &image); err != nil {
				return fmt.Errorf("read %s: %w", imageFile, err)
			}
			fmt.Fprintf(c.out, "image %s (build %s of %s)\n", image.Version, image.BuildID, image.Built)
			return nil
		},
	}
}
