// SPDX-License-Identifier: Apache-2.0
// counter.json is the output of solc 0.8.24: --optimize --evm-version paris --no-cbor-metadata --combined-json abi,bin
pragma solidity 0.8.24;

contract Counter {
    uint256 public value;

    event Counted(address indexed by, uint256 value);
    error Denied(uint256 limit, string reason);

    function increment(uint256 step) external {
        value += step;
        emit Counted(msg.sender, value);
    }

    function refuse() external pure {
        revert Denied(42, "no further");
    }

    function refuseInWords() external pure {
        require(false, "in words");
    }
}
