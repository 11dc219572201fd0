package render

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// domainKey is the meta entry that names the domains of a service.
const domainKey = "domain"

// addMeta takes in the meta entries of the instance at key. What is no host name among its domains is
// reported to skip.
func (s *Service) addMeta(key string, meta map[string]string, skip func(key, why string)) {
	for name, value := range meta {
		if _, there := s.Meta[name]; !there {
			s.Meta[name] = value
		}
	}
	for _, domain := range strings.FieldsFunc(meta[domainKey], func(r rune) bool { return r == ',' || r == ' ' }) {
		domain = strings.ToLower(strings.TrimSuffix(domain, "."))
		_, notIP := netip.ParseAddr(domain)
		switch {
		case len(domain) > nameBytesMax || notIP == nil || !hostName.MatchString(domain):
			skip(key, fmt.Sprintf("the domain %.100q is not a host name", domain))
		case !slices.Contains(s.Domains, domain):
			s.Domains = append(s.Domains, domain)
		}
	}
}

// separateDomains sorts the domains of each service, and takes away those that an earlier one has.
func separateDomains(dir string, services []Service, skip func(key, why string)) {
	owner := map[string]string{}
	for i := range services {
		s := &services[i]
		s.Domains = slices.DeleteFunc(s.Domains, func(domain string) bool {
			first, taken := owner[domain]
			if taken {
				skip(dir+"/"+s.Name, "the domain "+domain+" belongs to the service "+first)
			} else {
				owner[domain] = s.Name
			}
			return taken
		})
		slices.Sort(s.Domains)
	}
}
