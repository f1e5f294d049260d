// Node's two ways: `lookup` uses the C library, `resolve` c-ares without a search list. The first argument says which.
const dns = require('dns').promises

const absent = ['ENOTFOUND', 'ENODATA', 'NXDOMAIN']
const quiet = (promise) => promise.catch((error) => { if (absent.includes(error.code)) return []; throw error })

const ways = {
  lookup: {
    host: (name) => quiet(dns.lookup(name, { all: true })).then((list) => list.map((item) => item.address)),
    ptr: (address) => quiet(dns.lookupService(address, 80)).then((found) => found.hostname === address ? [] : [found.hostname]),
  },
  resolve: {
    host: (name) => Promise.all([quiet(dns.resolve4(name)), quiet(dns.resolve6(name))]).then((lists) => lists.flat()),
    srv: (name) => quiet(dns.resolveSrv(name)).then((list) => list.map((item) => `${item.name}:${item.port}`)),
    ptr: (address) => quiet(dns.reverse(address)),
  },
}

async function main () {
  const way = ways[process.argv[2]]
  for (const question of process.argv.slice(3)) {
    const at = question.indexOf('=')
    let result
    try {
      const found = await way[question.slice(0, at)](question.slice(at + 1))
      result = [...new Set(found)].sort().join(' ') || '-'
    } catch (error) {
      result = `!${error.code}`
    }
    console.log(`${question}\t${result}`)
  }
}
main()
