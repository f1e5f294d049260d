// Looks up each line of standard input by Go's own resolver, and then prints a line.
package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
)

func main() {
	resolver := &net.Resolver{PreferGo: true}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		if _, err := resolver.LookupIPAddr(context.Background(), lines.Text()); err != nil {
			fmt.Println("error")
		} else {
			fmt.Println("found")
		}
	}
}
