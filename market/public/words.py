"""The words that pseudonyms are made of: 256 qualities and 256 animals.

Their order is part of every name: changing it renames everybody.
"""

from __future__ import annotations

from typing import Final

QUALITIES: Final = tuple(
    """
    Able Agile Alert Amber Ample Apt Arctic Ardent Ashen Astral Avid Azure Balmy Bold Breezy
    Bright Brisk Bronze Calm Candid Carmine Cordial Cheery Chief Chilly Civil Classic Clear
    Clever Cloudy Coastal Cobalt Copper Coral Cosmic Cosy Crisp Curious Daring Dapper Dawn Deft
    Dewy Distant Dreamy Dusky Eager Early Earnest Eastern Ebony Elder Elegant Emerald Equal Even
    Exact Fabled Fair Famous Fancy Fast Fierce Fine Fleet Floral Fluent Flying Fond Frank Free
    Fresh Frosty Gallant Gentle Giant Gifted Gilded Glad Glassy Golden Good Grand Grassy Great
    Handy Happy Hardy Hazel Hearty Heroic Hidden High Hollow Honest Humble Indigo Inland Iron
    Ivory Jade Jaunty Jolly Jovial Joyful Just Kind Kindred Lasting Lavish Level Light Lilac
    Limber Lively Lofty Lone Loyal Lucid Lucky Lunar Magic Magnetic Maple Marble Marine Mellow
    Merry Mighty Mild Mindful Mint Misty Modern Modest Mossy Mountain Mystic Nifty Neat New
    Northern Novel Oaken Olive Onyx Opal Orange Orderly Outer Pacific Pale Peaceful Pearl
    Pensive Perfect Pine Placid Plain Playful Plucky Polar Polished Prompt Proper Proud Pure
    Quick Quiet Radiant Rapid Rare Ready Regal Rising River Robust Rocky Royal Rugged Russet
    Rustic Sable Safe Sage Salty Sandy Sapphire Scarlet Scenic Sharp Shining Silent Silken
    Silver Simple Sincere Sleek Snowy Soaring Social Solid Southern Spirited Spring Sprightly
    Stable Starry Steady Still Stoic Strong Sturdy Subtle Summer Sunlit Supple Sure Swift Tall
    Tawny Teal Tender Thrifty Tidal Tidy Timely Topaz Tranquil True Trusty Umber Upland Urban
    Valiant Vast Velvet Vernal Vibrant Vigilant Vital Vivid Warm Wary Western Wild Willing Windy
    Winged Winter Wise Witty Wooded Young Zealous Zesty
    """.split()  # noqa: SIM905 - a list of 256 strings is not to be read
)
ANIMALS: Final = tuple(
    """
    Aardvark Adder Albatross Alpaca Anchovy Angelfish Ant Anteater Antelope Auk Avocet Bandicoot
    Barbel Barnacle Bat Bear Beaver Bee Beetle Beluga Bison Blackbird Boar Bobcat Bonobo Bream
    Bullfinch Bunting Bustard Buzzard Caiman Camel Canary Capercaillie Capybara Caracal Cardinal
    Caribou Carp Cassowary Cat Catfish Chaffinch Cheetah Chinchilla Chipmunk Cicada Clam Coati
    Cobra Cod Cormorant Cougar Cow Coyote Crane Crocodile Crow Cuckoo Curlew Damselfly Deer
    Dingo Dipper Dolphin Donkey Dormouse Dove Dragonfly Dunlin Eagle Echidna Eel Egret Eider
    Elephant Elk Emu Ermine Falcon Finch Firefly Flamingo Fox Frigatebird Frog Gannet Gazelle
    Genet Gerbil Gibbon Gnu Godwit Goose Gopher Gorilla Goshawk Grebe Grouse Guillemot Gull
    Guppy Hamster Hare Hawk Hedgehog Heron Herring Hound Hummingbird Hyena Ibex Ibis Iguana
    Impala Jackal Jaguar Jellyfish Kangaroo Kestrel Kingfisher Kite Kiwi Koala Kookaburra Kudu
    Ladybird Lamprey Lapwing Lark Lemming Leopard Linnet Lion Lizard Llama Lobster Loris Lynx
    Macaw Mackerel Mallard Manatee Mandrill Manta Marlin Marmoset Marmot Marten Martin Meerkat
    Mole Mongoose Moose Moth Mouse Mule Mussel Narwhal Nightingale Numbat Ocelot Octopus Okapi
    Opossum Orca Oryx Osprey Ostrich Otter Owl Ox Oyster Panda Pangolin Panther Parrot Partridge
    Peacock Pelican Penguin Perch Petrel Pheasant Pigeon Pika Pike Pipit Platypus Polecat Pony
    Porcupine Porpoise Possum Puffin Puma Quail Quetzal Quokka Rabbit Raccoon Ray Redstart
    Reindeer Robin Rook Salmon Sandpiper Sardine Seahorse Seal Shark Sheep Shrew Shrimp Siskin
    Skate Skua Skylark Sloth Snail Snipe Sparrow Spider Squid Squirrel Starling Stingray Stoat
    Stork Swallow Swan Tapir Tarpon Tern Toad Tortoise Toucan Trout Tuna Turbot Turtle Urchin
    Vole Vulture Wallaby Walrus Warbler Wolf Wolverine Wombat Woodcock Woodpecker Wren Yak Zebra
    """.split()  # noqa: SIM905 - a list of 256 strings is not to be read
)
