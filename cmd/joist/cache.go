package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"joist/iso/build"
)

func (c *cli) cacheCommand() *cobra.Command {
	group := &cobra.Command{Use: "cache", Short: "Look after what builds keep for the next one"}
	var all bool
	prune := &cobra.Command{
		Use:   "prune",
		Short: "Remove what no build used for a week",
		Long: `Removes packages, tools, compiled programs and systems that no build used for
seven days, and what is beyond the bounds of docs/build.md. Nothing in the cache is lost for
good; a build fetches or makes it again. Do not run it while something builds.`,
		Example: "  joist cache prune\n  joist cache prune --all",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			before, after, err := build.PruneCache(cmd.Context(), all)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.out, "%.1f MB before, %.1f MB now\n", float64(before)/1e6, float64(after)/1e6)
			return nil
		},
	}
	prune.Flags().BoolVar(&all, "all", false, "remove everything")
	group.AddCommand(prune)
	return group
}
