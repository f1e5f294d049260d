// Go's resolvers: its own (GODEBUG=netdns=go), that of the C library (GODEBUG=netdns=cgo), and gRPC's, whose first
// argument is "grpc" and which also looks up the balancers of a name (_grpclb._tcp, SRV).
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	_ "google.golang.org/grpc/balancer/grpclb"
	"google.golang.org/grpc/balancer/grpclb/state"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/serviceconfig"
)

func main() {
	questions := os.Args[1:]
	look := lookup
	if len(questions) > 0 && questions[0] == "grpc" {
		questions, look = questions[1:], byGRPC
	}
	for _, question := range questions {
		kind, name, _ := strings.Cut(question, "=")
		found, err := look(kind, name)
		slices.Sort(found)
		found = slices.Compact(found)
		result := strings.Join(found, " ")
		var dns *net.DNSError
		switch {
		case errors.As(err, &dns) && dns.IsNotFound, err == nil && len(found) == 0:
			result = "-"
		case err != nil:
			result = "!" + err.Error()
		}
		fmt.Printf("%s\t%s\n", question, result)
	}
}

func lookup(kind, name string) (found []string, err error) {
	switch kind {
	case "host":
		return net.LookupHost(name)
	case "ptr":
		found, err = net.LookupAddr(name)
		for i := range found {
			found[i] = strings.TrimSuffix(found[i], ".")
		}
		return found, err
	}
	_, records, err := net.LookupSRV("", "", name)
	for _, record := range records {
		found = append(found, fmt.Sprintf("%s:%d", strings.TrimSuffix(record.Target, "."), record.Port))
	}
	return found, err
}

// The side of a connection that gRPC's resolver reports to.
type connection struct {
	states chan resolver.State
	errors chan error
}

func (c *connection) UpdateState(s resolver.State) error {
	select {
	case c.states <- s:
	default:
	}
	return nil
}

func (c *connection) ReportError(err error) {
	select {
	case c.errors <- err:
	default:
	}
}

func (c *connection) NewAddress([]resolver.Address) {}
func (c *connection) ParseServiceConfig(string) *serviceconfig.ParseResult {
	return &serviceconfig.ParseResult{}
}

func byGRPC(kind, name string) (found []string, err error) {
	c := &connection{make(chan resolver.State, 1), make(chan error, 1)}
	target := resolver.Target{URL: url.URL{Scheme: "dns", Path: "/" + name + ":80"}}
	watcher, err := resolver.Get("dns").Build(target, c, resolver.BuildOptions{})
	if err != nil {
		return nil, err
	}
	defer watcher.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	select {
	case s := <-c.states:
		for _, address := range s.Addresses {
			host, _, _ := net.SplitHostPort(address.Addr)
			found = append(found, host)
		}
		if balancers := state.Get(s); kind == "srv" {
			found = nil
			if balancers != nil {
				for _, address := range balancers.BalancerAddresses {
					found = append(found, address.Addr)
				}
			}
		}
		return found, nil
	case err := <-c.errors:
		if strings.Contains(err.Error(), "no such host") || strings.Contains(err.Error(), "produced zero addresses") {
			return nil, nil
		}
		return nil, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
